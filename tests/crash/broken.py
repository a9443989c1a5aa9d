"""How the suite says which rule was broken."""


class BrokenRuleError(AssertionError):
    """`rule` is its name."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def require(rule: str, holds: bool, text: object) -> None:
    if not holds:
        raise BrokenRuleError(rule, str(text))
