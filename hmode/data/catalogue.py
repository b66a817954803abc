"""The published data sets: how large they are, who made them, where to ask for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What is published about a data set.

    Attributes:
        title: its name in the literature.
        about: what is in it.
        images: {split: images}; a split "all" where there are no fixed ones.
        people: annotated people (vehicles, for TRANCOS) in all splits, as published; None where
            the annotation of a split is kept back, so that they cannot be counted.
        where: where to ask for it.
        licence: its terms, as far as they are stated.
        citation: the paper to cite.
        flaws: known flaws of the published files: the names of images, "split/name", that are byte
            for byte the same.
    """

    title: str
    about: str
    images: dict[str, int]
    people: int | None
    where: str
    licence: str
    citation: str
    flaws: tuple[frozenset[str], ...] = ()


RESEARCH = "for research; see the terms that come with it, and do not pass the images on"
SHANGHAITECH = (
    "https://github.com/desenzhou/ShanghaiTechDataset",
    RESEARCH,
    "Y. Zhang, D. Zhou, S. Chen, S. Gao, Y. Ma: Single-Image Crowd Counting via Multi-Column "
    "Convolutional Neural Network. CVPR 2016",
)

CATALOGUE = {
    "sha": Entry(
        "ShanghaiTech A",
        "dense crowds from the web; 33 to 3,139 people an image",
        {"train": 300, "test": 182},
        241_677,
        *SHANGHAITECH,
        (frozenset({"train/IMG_121", "test/IMG_98"}),),
    ),
    "shb": Entry(
        "ShanghaiTech B",
        "streets of Shanghai; 9 to 578 people an image",
        {"train": 400, "test": 316},
        88_488,
        *SHANGHAITECH,
    ),
    "ucf_cc_50": Entry(
        "UCF_CC_50",
        "50 grey images of extremely dense crowds, in five folds",
        {"all": 50},
        63_974,
        "https://www.crcv.ucf.edu/data/ucf-cc-50/",
        RESEARCH,
        "H. Idrees, I. Saleemi, C. Seibert, M. Shah: Multi-Source Multi-Scale Counting in "
        "Extremely Dense Crowd Images. CVPR 2013",
    ),
    "ucf_qnrf": Entry(
        "UCF-QNRF",
        "dense crowds in large images; 49 to 12,865 people an image",
        {"train": 1201, "test": 334},
        1_251_642,
        "https://www.crcv.ucf.edu/data/ucf-qnrf/",
        RESEARCH,
        "H. Idrees, M. Tayyab, K. Athrey, D. Zhang, S. Al-Maadeed, N. Rajpoot, M. Shah: "
        "Composition Loss for Counting, Density Map Estimation and Localization in Dense Crowds. "
        "ECCV 2018",
    ),
    "jhu": Entry(
        "JHU-CROWD++",
        "many scenes and weathers, some without people; 0 to 25,791 people an image",
        {"train": 2272, "val": 500, "test": 1600},
        1_515_005,
        "http://www.crowd-counting.com",
        RESEARCH,
        "V. A. Sindagi, R. Yasarla, V. M. Patel: JHU-CROWD++: Large-Scale Crowd Counting Dataset "
        "and A Benchmark Method. TPAMI 2020",
    ),
    "nwpu": Entry(
        "NWPU-Crowd",
        "many scenes, some without people, up to 20,033 people an image; 2,133,375 in all, those "
        "of the test split kept back",
        {"train": 3109, "val": 500, "test": 1500},
        None,
        "https://www.crowdbenchmark.com/nwpucrowd.html",
        RESEARCH,
        "Q. Wang, J. Gao, W. Lin, X. Li: NWPU-Crowd: A Large-Scale Benchmark for Crowd Counting "
        "and Localization. TPAMI 2021",
    ),
    "trancos": Entry(
        "TRANCOS",
        "vehicles in traffic jams, 640 x 480, counted inside a mask",
        {"train": 403, "val": 420, "test": 421},
        46_796,
        "http://agamenon.tsc.uah.es/Personales/rlopez/data/trancos/",
        "images of the Dirección General de Tráfico, strictly for research; see its LICENSE.txt",
        "R. Guerrero-Gómez-Olmedo, B. Torre-Jiménez, R. López-Sastre, S. Maldonado-Bascón, "
        "D. Oñoro-Rubio: Extremely Overlapping Vehicle Counting. IbPRIA 2015",
    ),
    "rgbd": Entry(
        "ShanghaiTechRGBD",
        "streets and squares, 1920 x 1080, with depth (not used here)",
        {"train": 1193, "test": 1000},
        144_512,
        "https://github.com/svip-lab/RGBD-Counting",
        RESEARCH,
        "D. Lian, J. Li, J. Zheng, W. Luo, S. Gao: Density Map Regression Guided Detection "
        "Network for RGB-D Crowd Counting and Localization. CVPR 2019",
    ),
}
