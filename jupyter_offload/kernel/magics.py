"""``%%offload`` and ``%offload`` in a notebook."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from jupyter_offload.errors import OffloadError, UsageError
from jupyter_offload.kernel.binding import Binder
from jupyter_offload.kernel.completer import Completer
from jupyter_offload.kernel.display import show_card
from jupyter_offload.kernel.future import Job
from jupyter_offload.kernel.lines import Lines
from jupyter_offload.kernel.options import Options, cell_parser, parse_options, split
from jupyter_offload.kernel.prepare import prepare_cell
from jupyter_offload.kernel.present import presentable
from jupyter_offload.kernel.preview import show_preview
from jupyter_offload.kernel.session import session
from jupyter_offload.kernel.submitting import current_folder, origin_of, send
from jupyter_offload.kernel.waiting import finish, stream, twin_note

__all__ = ["OffloadMagics", "load_ipython_extension", "unload_ipython_extension"]


@magics_class
class OffloadMagics(Magics):
    """The magics, with what they share: the names that IPython itself made, and the binder of names that come back."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.binder = Binder(shell)
        self.lines = Lines(shell, self.binder)
        self.count = 0

    @no_var_expand
    @line_cell_magic
    def offload(self, line: str, cell: str | None = None) -> object:
        """Run this cell elsewhere (``%%offload``), or show and steer jobs (``%offload``). ``%%offload --help`` lists the options."""
        try:
            if cell is None:
                return self.lines.run(line)
            self._cell(line, cell)
        except OffloadError as error:
            if not hasattr(error, "_render_traceback_"):
                presentable(error, frames=False)
            raise
        return None

    def _cell(self, line: str, cell: str) -> None:
        parser = cell_parser()
        words = split(line)
        found = parser.read(words)
        if found.help:
            print(parser.format_help())
            return
        options = parse_options(found)
        if not cell.strip():
            raise UsageError("the cell is empty", hint="Write the code on the lines below %%offload.")
        self.count += 1
        prepared = prepare_cell(
            cell,
            options,
            transformed=self.shell.transform_cell(cell),
            user_ns=self.shell.user_ns,
            hidden=self.shell.user_ns_hidden,
            origin=origin_of(self.shell),
            filename=f"<offload {options.name or 'cell'} In[{self.shell.execution_count}]>",
            folder=current_folder(),
        )
        if options.dry_run:
            show_preview(prepared, session().client.dry_run(prepared.request))
            return
        job, twin = send(prepared, again=options.again, reuse=options.reuse)
        for blind in prepared.blind:
            job.note(f"{blind} may read names that the text does not show: name them with -i if they are missing")
        self.show(job, options, twin=twin)

    def show(self, job: Job, options: Options, *, twin: bool) -> None:
        """Show the card, then wait, or expect the names."""
        if twin:
            job.note(twin_note(job))
        show_card(job)
        if options.waits:
            if job.state.terminal and twin:
                finish(job, self.shell)
            else:
                stream(job, self.shell)
        elif job.record.request.outputs:
            self.binder.expect(job)


def load_ipython_extension(shell: Any) -> None:
    """Register the magics, the completer and the hooks; called by ``%load_ext jupyter_offload``."""
    magics = OffloadMagics(shell)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.binder.between_cells)
    shell.events.register("post_run_cell", magics.binder.between_cells)
    completer = Completer(session().client)
    for command in ("%%offload", "%offload"):
        shell.set_hook("complete_command", completer, str_key=command)


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics and the hooks; jobs go on."""
    magics = shell.magics_manager.registry.get("OffloadMagics")
    if magics is None:
        return
    for event in ("pre_run_cell", "post_run_cell"):
        shell.events.unregister(event, magics.binder.between_cells)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("offload", None)
