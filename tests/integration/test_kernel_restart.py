"""Kernel and service are killed while a job runs; started again, both find it."""

from __future__ import annotations

import signal
from pathlib import Path

from parts.notebook import CARD, Home, notebook


def test_a_job_outlives_kernel_and_service(tmp_path: Path) -> None:
    home = Home(tmp_path)
    try:
        with notebook(home) as first:
            first.run("def square(x):\n    import time\n    time.sleep(2)\n    return x * x")
            job_id = first.run(
                "import jupyter_offload as offload\njob = offload.submit(square, 12)\nprint(job.id)"
            ).text()
            cell = first.run(
                "%%offload --detach -o found -i none --name cell\nimport time\ntime.sleep(2)\nfound = [1, 2]"
            )
            assert cell.cards[0][CARD]["name"] == "cell"
            home.end_service(signal.SIGKILL)
            first.kill()
        with notebook(home) as second:
            again = second.run(f"import jupyter_offload as offload\noffload.get('{job_id.strip()}').result(60)")
            assert again.result == "144", again.outputs
            assert second.run("%offload result square").result == "144"
            assert "found (list) returned" in second.run("%offload result cell").text()
            assert second.run("found").result == "[1, 2]"
    finally:
        home.end_service()


def test_a_service_that_is_killed_while_a_cell_waits_is_started_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    killed = []

    def kill(output: dict[str, object]) -> None:
        if "begun" in str(output.get("text", "")) and not killed:
            killed.append(home.service_pid())
            home.end_service(signal.SIGKILL)

    try:
        with notebook(home) as book:
            cell = book.run(
                "%%offload -o found -i none\nimport time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('over')\nfound = 5",
                on_output=kill,
            )
            assert killed
            assert cell.error is None, cell.error
            assert cell.text().count("begun") == 1
            assert cell.text().count("over") == 1
            assert book.run("found").result == "5"
    finally:
        home.end_service()
