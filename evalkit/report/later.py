"""What the page holds as data and its script puts in when it is asked for: a large grid opens with few elements."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_TAGS = 500  # of a folded part that stands in the page itself


@dataclass
class Later:
    """HTML that templates made and did not show.

    Attributes:
        folds: by id of a <details>, what it holds.
        lists: by name, pieces by their key: lines of the table, cards and figures of the gallery.
    """

    folds: dict[str, str] = field(default_factory=dict)
    lists: dict[str, dict[str, str]] = field(default_factory=dict)

    def fold(self, name: str, html: str) -> bool:
        """Keeps a folded part back where it is large; says whether it did."""
        if html.count("<") < 2 * MOST_TAGS:
            return False
        self.folds[name] = str(html)
        return True

    def put(self, name: str, key: object, html: str) -> str:
        """Keeps a piece back; gives what stands in its place, nothing."""
        self.lists.setdefault(name, {})[str(key)] = str(html)
        return ""
