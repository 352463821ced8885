"""The progress bar of every command, on standard error."""

import sys
from typing import Self


class Bar:
    """A bar with the time left, on a terminal; elsewhere, only the lines that are asked for are printed.

    Args:
        title: of the command or step at work.
        counted: what the bar counts, in the plural, for example "networks".
        hidden: prints nothing.
    """

    def __init__(self, title: str, counted: str, *, hidden: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        # the stream of now: what runs under the bar may hold back what libraries write to `sys.stderr`
        self._console = Console(file=sys.stderr)
        self._hidden = hidden
        self._counted = counted
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[counted]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            disable=hidden or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=None, counted="starts", left="", facts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def is_drawn(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._console.is_terminal

    def show(
        self, done: int, total: int, facts: str = "", title: str | None = None, counted: str | None = None
    ) -> None:
        """Show how much is done, of how much, and facts beside it; `counted` replaces the count, as "epoch 3/30"."""
        if title is not None and title != self._progress.tasks[0].description:
            self._progress.reset(self._task)  # the time left is of what is shown, not of what came before
        count = counted or f"{done:,}/{total:,} {self._counted}"
        self._progress.update(self._task, completed=done, total=total, facts=facts, counted=count, left="left")
        self.name(title)

    def name(self, title: str | None, facts: str | None = None) -> None:
        """Change the title or the facts, and leave what is done as it is."""
        changes = {"description": title, "facts": facts}
        self._progress.update(self._task, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def line(self, text: str) -> None:
        """Print a line that stays, on a terminal or not."""
        if not self._hidden:
            self._console.print(text, markup=False, highlight=False)
