"""Which pipelines of diffusers can stand in the grid: the table of docs/adapters.md, and where its rows come from.

python tests/helpers/pipeline_table.py     # writes it anew
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
BEGIN, END = "<!-- pipelines: begin -->", "<!-- pipelines: end -->"
FILES = ("zoo_base", "zoo_dit", "zoo_chat", "zoo_unet", "zoo_more")

# Make images of text, and were not made tiny: nothing is known to stand in their way, and nothing was run.
NOT_TRIED = (
    "AltDiffusion Amused BlipDiffusion BlipDiffusionControlNet BriaFibo2 Cosmos2TextToImage "
    "GlmImage JoyImageEditPlus KarrasVe PNDM ScoreSdeVe "
    "SemanticStableDiffusion StableDiffusionAttendAndExcite StableDiffusionDiffEdit StableDiffusionGLIGEN "
    "StableDiffusionGLIGENTextImage StableDiffusionLDM3D StableDiffusionModelEditing StableDiffusionPanorama "
    "StableDiffusionParadigms StableDiffusionPix2PixZero StableDiffusionSAG UniDiffuser UnCLIP "
    "VQDiffusion VersatileDiffusion VersatileDiffusionTextToImage ZImageOmni"
)
# Want an image of each prompt, unless they are in the table above: the rows of images under "Diffusion models".
OF_IMAGES = """
AltDiffusionImg2Img AmusedImg2Img AmusedInpaint BriaFiboEdit ChromaImg2Img ChromaInpaint CogView4Control CycleDiffusion
Flux2KleinInpaint FluxControlImg2Img FluxControlInpaint FluxControlNetImg2Img FluxControlNetInpaint FluxControlNet
FluxControl FluxFill FluxImg2Img FluxInpaint FluxKontextInpaint HunyuanDiTControlNet HunyuanImageRefiner
IFImg2Img IFImg2ImgSuperResolution IFInpainting IFInpaintingSuperResolution IFSuperResolution JoyImageEdit
Kandinsky3Img2Img Kandinsky5I2I KandinskyImg2ImgCombined KandinskyImg2Img KandinskyInpaintCombined KandinskyInpaint
KandinskyV22ControlnetImg2Img KandinskyV22Controlnet KandinskyV22Img2ImgCombined KandinskyV22Img2Img
KandinskyV22InpaintCombined KandinskyV22Inpaint LDMSuperResolution LatentConsistencyModelImg2Img LongCatImageEdit
PaintByExample QwenImageControlNetInpaint QwenImageControlNet QwenImageEditInpaint QwenImageEdit QwenImageEditPlus
QwenImageImg2Img QwenImageInpaint QwenImageLayered RePaint SanaControlNet SanaSprintImg2Img
StableDiffusion3ControlNetInpainting StableDiffusion3ControlNet StableDiffusion3Img2Img StableDiffusion3Inpaint
StableDiffusion3PAGImg2Img StableDiffusionAdapter StableDiffusionControlNetImg2Img StableDiffusionControlNetInpaint
StableDiffusionControlNetPAGInpaint StableDiffusionControlNetPAG StableDiffusionControlNet StableDiffusionControlNetXS
StableDiffusionDepth2Img StableDiffusionImageVariation StableDiffusionImg2Img StableDiffusionInpaint
StableDiffusionInstructPix2Pix StableDiffusionLatentUpscale StableDiffusionPAGImg2Img StableDiffusionPAGInpaint
StableDiffusionUpscale StableDiffusionXLAdapter StableDiffusionXLControlNetImg2Img StableDiffusionXLControlNetInpaint
StableDiffusionXLControlNetPAGImg2Img StableDiffusionXLControlNetPAG StableDiffusionXLControlNet
StableDiffusionXLControlNetUnionImg2Img StableDiffusionXLControlNetUnionInpaint StableDiffusionXLControlNetUnion
StableDiffusionXLControlNetXS StableDiffusionXLImg2Img StableDiffusionXLInpaint StableDiffusionXLInstructPix2Pix
StableDiffusionXLPAGImg2Img StableDiffusionXLPAGInpaint StableUnCLIPImg2Img UnCLIPImageVariation
VersatileDiffusionDualGuided VersatileDiffusionImageVariation VisualClozeGeneration VisualCloze
ZImageControlNetInpaint ZImageControlNet ZImageImg2Img ZImageInpaint
"""
# Refused in one line before the first sample, and why.
REFUSED = {
    "video": """
Allegro AnimateDiffControlNet AnimateDiffPAG AnimateDiff AnimateDiffSDXL AnimateDiffSparseControlNet
AnimateDiffVideoToVideoControlNet AnimateDiffVideoToVideo AnyFlowFAR AnyFlow ChronoEdit CogVideoXFunControl
CogVideoXImageToVideo CogVideoX CogVideoXVideoToVideo ConsisID Cosmos2VideoToWorld Cosmos2_5_PredictBase
Cosmos2_5_Transfer Cosmos3Omni CosmosTextToWorld CosmosVideoToWorld EasyAnimateControl EasyAnimateInpaint EasyAnimate
Helios HeliosPyramid HunyuanSkyreelsImageToVideo HunyuanVideo15ImageToVideo HunyuanVideo15 HunyuanVideoFramepack
HunyuanVideoImageToVideo HunyuanVideo I2VGenXL Kandinsky5I2V Kandinsky5T2V Kandinsky6SR Kandinsky6TI2VA LTX2Condition
LTX2DFR LTX2DFRTemporalRefine LTX2HDR LTX2ImageToVideo LTX2InContext LTX2LatentUpsample LTX2 LTX2VideoDiffusionDecode
LTXCondition LTXI2VLongMultiPrompt LTXImageToVideo LTXLatentUpsample LTX Latte LucyEdit Mochi MotifVideoImage2Video
MotifVideo PIA SanaImageToVideo SanaVideo SanaWM SkyReelsV2DiffusionForcingImageToVideo SkyReelsV2DiffusionForcing
SkyReelsV2DiffusionForcingVideoToVideo SkyReelsV2ImageToVideo SkyReelsV2 StableVideoDiffusion TextToVideoSD
TextToVideoZero TextToVideoZeroSDXL VideoToVideoSD WanAnimate WanImageToVideo Wan WanVACE WanVideoToVideo
""",
    "audio": """
AceStep AudioDiffusion AudioLDM2 AudioLDM DanceDiffusion LongCatAudioDiT MusicLDM SpectrogramDiffusion
StableAudio3AudioToAudio StableAudio3Inpaint StableAudio3 StableAudio
""",
    "3D shapes": "ShapEImg2Img ShapE",
    "text": "DiffusionGemma LLaDA2",
    "proteins": "RFD4Proteina",
    "depth, normals or materials of an image": "MarigoldDepth MarigoldIntrinsics MarigoldNormals",
    "embeddings (`pipeline=` names the combined one)": (
        "FluxPriorRedux KandinskyPrior KandinskyV22PriorEmb2Emb KandinskyV22Prior StableCascadePrior WuerstchenPrior"
    ),
    "needs embeddings (`pipeline=` names the combined one)": (
        "Kandinsky KandinskyV22 StableCascadeDecoder WuerstchenDecoder"
    ),
    "ONNX networks (`model=[onnx_denoiser]`)": (
        "OnnxStableDiffusionImg2Img OnnxStableDiffusionInpaint OnnxStableDiffusion OnnxStableDiffusionUpscale "
        "StableDiffusionOnnx"
    ),
    "needs sentencepiece, which is not a package of ours": "KolorsImg2Img KolorsPAG Kolors",
    "no pipeline with a call of its own": "Diffusion",
}
# Do not run even as diffusers ships them.
BROKEN = {"WuerstchenCombinedPipeline": "its decoder gives one prompt's embeddings to a batch of another size"}


def zoo() -> dict[str, object]:
    from zoo import ZOO

    for name in FILES:
        importlib.import_module(name)
    return dict(ZOO)


def classes(names: str) -> list[str]:
    return [f"{name}Pipeline" for name in names.split()]


def groups() -> dict[str, list[str]]:
    """All names, by group."""
    refused = {f"refused: {why}": classes(names) for why, names in REFUSED.items()}
    return {
        "runs": sorted(zoo()),
        "not tried": classes(NOT_TRIED),
        "of images": classes(OF_IMAGES),
        "broken": list(BROKEN),
        **refused,
    }


def rendered() -> str:
    """The table in Markdown."""
    from zoo import Tiny

    lines = ["| pipeline | sampler swap | starting noise | guided by | |", "|---|---|---|---|---|"]
    for name, entry in sorted(zoo().items()):
        assert isinstance(entry, Tiny)
        swap = f"yes (`{entry.swap}`)" if entry.swap else "refused"
        guided = f"`{entry.guidance}`" if entry.guidance else ""
        noise = "no" if not entry.latents else "yes" if entry.given else "walks alone"
        lines.append(f"| {name} | {swap} | {noise} | {guided} | {entry.note} |")
    lines += ["", "| cannot | why |", "|---|---|"]
    for why, names in REFUSED.items():
        lines.append(f"| {len(names.split())}: {_shortened(names)} | {why} |")
    lines += [f"| {name.removesuffix('Pipeline')} | {why} |" for name, why in BROKEN.items()]
    tried = f"{len(NOT_TRIED.split())} pipelines of text or class were not tried: {', '.join(NOT_TRIED.split())}."
    return "\n".join([*lines, "", *textwrap.wrap(tried, 118)])


def _shortened(names: str) -> str:
    each = names.split()
    return ", ".join(each) if len(each) <= 6 else f"{', '.join(each[:5])}, ..."


def write() -> None:
    text = DOCS.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    DOCS.write_text(f"{text[:begin]}\n\n{rendered()}\n\n{text[end:]}")


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parents[1]))
    write()
