"""``byzjax demo``: three of twenty workers lie about MNIST."""
