"""Contracts that every registered rule and attack must pass, and float64 references to hold them against."""

from byzjax.testing.cases import Case, attack_cases, rule_cases
from byzjax.testing.references import REFERENCES

__all__ = ["REFERENCES", "Case", "attack_cases", "rule_cases"]
