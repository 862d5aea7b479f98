"""The progress bar of what works through images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar with images per second on the standard error stream; yields what advances it by a number of images.

    Args:
        total: number of images.
        shown: False: nothing is shown, and `rich` not needed.
    """
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.completed / task.elapsed if task.completed and task.elapsed else 0
            return Text(f"{speed:,.0f} images/s", style="progress.data.speed")

    columns = (BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=5) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
