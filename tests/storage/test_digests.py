"""What names a version of the source."""

from byzjax.storage import digests


def test_a_new_version_of_the_source_is_another_version(tmp_path, monkeypatch):
    package = tmp_path / "byzjax"
    (package / "sub").mkdir(parents=True)
    for name in ("store.py", "sub/rule.py"):
        (package / name).write_text("x = 1\n")
    monkeypatch.setattr(digests, "__file__", str(package / "storage" / "digests.py"))
    versions = [digests.code_version.__wrapped__()]
    (package / "sub" / "rule.py").write_text("x = 2\n")
    versions.append(digests.code_version.__wrapped__())
    (package / "sub" / "rule.py").rename(package / "rule.py")
    versions.append(digests.code_version.__wrapped__())
    assert len(set(versions)) == 3
