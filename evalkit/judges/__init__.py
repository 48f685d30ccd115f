"""What judges answer about images: questions, who is asked, how an answer is read, and where all answers are stored."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.judges.chat import Chat as Chat
    from evalkit.judges.digits_truth import DigitsTruth as DigitsTruth
    from evalkit.judges.local import LocalVlm as LocalVlm
else:
    __all__, __getattr__ = lazy(__name__, chat="Chat", digits_truth="DigitsTruth", local="LocalVlm")
