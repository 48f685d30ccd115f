"""The subcommands of the command line, a file per family; `evalkit.cli` adds the run, which is what has no name."""

from evalkit.commands import basics as basics
from evalkit.commands import history as history
from evalkit.commands import hub as hub
from evalkit.commands import power as power
from evalkit.commands import votes as votes
from evalkit.commands import watch as watch
from evalkit.commands.program import Action as Action
from evalkit.commands.program import app as app
