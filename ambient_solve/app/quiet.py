"""A page whose terminal never shows what a visitor has sent: gradio prints errors whole, and they may quote it."""

from __future__ import annotations

from typing import Any

from ambient_solve.app.bodies import tell

LONGEST = 600
"""Largest length of an error that is sent back, in characters."""


def quiet_blocks(**settings: Any) -> Any:
    """`gradio.Blocks`, whose events print where they failed but not the words of the error."""
    import gradio as gr

    class Quiet(gr.Blocks):
        async def process_api(self, *args: Any, **given: Any) -> dict[str, Any]:
            try:
                return await super().process_api(*args, **given)
            except gr.Error as error:
                words = str(error.message)
                error.message = words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."
                error.print_exception = False
                raise error.with_traceback(None) from None
            except Exception as error:
                tell(error)
                words = "Something went wrong. The terminal of the page tells where."
                raise gr.Error(words, print_exception=False) from None

    return Quiet(**settings)
