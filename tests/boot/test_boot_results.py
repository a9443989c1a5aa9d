"""The page of the last real boots says what ran, what failed and what was skipped, and why."""

from tests.boot.results import NOT_RUN, latest, page, row


def test_the_page_counts_what_ran_and_names_what_did_not() -> None:
    rows = [
        row("grub", "A good update commits", "passed", 90.4),
        row("grub", "The new slot panics", "failed", 30.0),
        row("u-boot", "A good update commits", "skipped", 0.0, "qemu-system-aarch64 is not here"),
    ]
    text = page(rows, "Debian 12.")
    assert "1 of 2 cases that ran passed, 2 minutes in all. A partial run: 2 of 3 cases ran." in text
    assert "| GRUB, x86-64 | A good update commits | passed | 90 | " in text
    assert "| GRUB, x86-64 | The new slot panics | failed | 30 | " in text
    assert "| U-Boot, arm64 | A good update commits | skipped: qemu-system-aarch64 is not here | - | - | - |" in text


def test_of_several_runs_the_last_that_had_a_case_counts() -> None:
    first = [row("u-boot", "A good update commits", "failed", 9.0), row("grub", "A good update commits", NOT_RUN, 0.0)]
    second = [row("u-boot", "A good update commits", NOT_RUN, 0.0), row("grub", "A good update commits", "passed", 8.0)]
    assert [(one["loader"], one["result"]) for one in latest([*first, *second])] == [
        ("grub", "passed"),
        ("u-boot", "failed"),
    ]
    assert "All cases ran." in page(latest([*first, *second]), "Debian 12.")
