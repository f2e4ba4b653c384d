"""What the person who runs the page allows its visitors: which priors, and how long a job may take."""

from __future__ import annotations

from dataclasses import dataclass

from ambient_solve.errors import AmbientSolveError


@dataclass(frozen=True)
class Rules:
    """The rules of a page.

    Attributes:
        priors: Priors that may be chosen beside the embedded ones. any_prior: Any folder or hub id may be.
        minutes: How long a job may work; 0 is no limit.
    """

    priors: tuple[str, ...] = ()
    any_prior: bool = False
    minutes: float = 60.0

    def check_prior(self, name: str) -> None:
        """Refuse a prior that is not offered, in the same words whether or not there is such a folder.

        Raises:
            AmbientSolveError: it is neither embedded nor was named on the command line.
        """
        from ambient_solve.priors.load import embedded_priors

        if self.any_prior or name in self.priors or name in embedded_priors():
            return
        raise AmbientSolveError(
            "This prior is not offered here. Choose one of the list; ambient-solve app --more-priors adds to it."
        )

    def offered(self) -> list[str]:
        """The priors to choose from."""
        from ambient_solve.priors.load import embedded_priors

        return list(dict.fromkeys([*self.priors, *embedded_priors()]))
