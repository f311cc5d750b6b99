"""What cleaning does, and the rules a document must pass."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from llmyard.core.config import Config, FilePath, located


class Gopher(Config):
    """Document rules of Gopher (Rae et al. 2021, appendix A.1.1); Chinese texts have limits of their own."""

    min_words: int = Field(50, ge=0)
    max_words: int = Field(100_000, ge=1)
    min_mean_word_length: float = Field(3.0, ge=0)
    max_mean_word_length: float = Field(10.0, ge=0)
    max_symbol_ratio: float = Field(0.1, ge=0, description="Hash signs, and ellipses, to words.")
    max_bullet_lines: float = Field(0.9, ge=0, le=1)
    max_ellipsis_lines: float = Field(0.3, ge=0, le=1)
    min_lettered_words: float = Field(0.8, ge=0, le=1, description="Words with a letter in them.")
    min_stop_words: int = Field(2, ge=0, description="Different ones of the, be, to, of, and, that, have, with.")
    min_characters_zh: int = Field(50, ge=0, description="Chinese characters; a Chinese word has about two.")
    max_characters_zh: int = Field(200_000, ge=1)
    min_han_share_zh: float = Field(0.5, ge=0, le=1, description="Chinese characters of all letters.")
    min_punctuation_share_zh: float = Field(0.01, ge=0, le=1, description="Without any it is a list or a menu.")
    max_punctuation_share_zh: float = Field(0.4, ge=0, le=1)
    min_stop_share_zh: float = Field(0.03, ge=0, le=1, description="Function characters such as 的一是不了 of all.")


class Repetition(Config):
    """Repetition rules of Gopher (table A1); n-grams are of words, or of twice as many Chinese characters."""

    max_repeated_lines: float = Field(0.3, ge=0, le=1)
    max_repeated_paragraphs: float = Field(0.3, ge=0, le=1)
    max_repeated_line_characters: float = Field(0.2, ge=0, le=1)
    max_repeated_paragraph_characters: float = Field(0.2, ge=0, le=1)
    max_top_ngrams: tuple[float, float, float] = Field(
        (0.2, 0.18, 0.16), description="Share of characters in the most frequent 2-, 3- and 4-gram."
    )
    max_repeated_ngrams: tuple[float, float, float, float, float, float] = Field(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), description="Share of characters in repeated 5- to 10-grams."
    )


class FineWeb(Config):
    """Line rules of FineWeb (Penedo et al. 2024) and C4's curly bracket (Raffel et al. 2020)."""

    min_ended_lines: float = Field(0.12, ge=0, le=1, description="Lines that end in a sentence's end mark.")
    max_short_lines: float = Field(0.67, ge=0, le=1, description="Lines of at most 30 characters.")
    max_repeated_line_characters: float = Field(0.01, ge=0, le=1)
    max_lines_per_word: float = Field(0.3, ge=0)
    max_lines_per_character_zh: float = Field(0.15, ge=0)
    braces: bool = Field(True, description="Whether texts with curly brackets may stay.")


class Quality(Config):
    """What a text must be like; lengths in characters, one set for both languages where none is named ``_zh``."""

    min_characters: int = Field(20, ge=1, description="Chinese says in 20 characters what English says in 60.")
    max_characters: int = Field(1_000_000, ge=1)
    min_letter_share: float = Field(0.5, ge=0, le=1, description="Letters and Chinese characters of all non-space.")
    max_markup_share: float = Field(0.2, ge=0, le=1, description="Characters inside <tags> of all.")
    max_replacement_share: float = Field(0.005, ge=0, le=1, description="U+FFFD and other traces of wrong decoding.")
    gopher: Gopher | None = Field(None, description="`{}` for the published limits.")
    repetition: Repetition | None = Field(None, description="`{}` for the published limits.")
    fineweb: FineWeb | None = Field(None, description="`{}` for the published limits.")


Pii = Literal["mail", "phone", "id_card", "bank_card", "iban", "ip", "key", "credentials"]
PII: tuple[Pii, ...] = get_args(Pii)


class Privacy(Config):
    """Which personal data and secrets are masked, and by what."""

    kinds: tuple[Pii, ...] = Field(PII, description="Kinds to mask; all by default.")
    replace_by: Literal["placeholder", "fake"] = Field(
        "placeholder", description="`[EMAIL]`, or one fixed harmless value of the kind (name@example.com)."
    )


class Language(Config):
    """Which languages a text may be in, and how sure that must be."""

    wanted: tuple[str, ...] = Field(("zh", "en"), min_length=1, description="ISO 639-1 codes.")
    min_confidence: float = Field(0.2, ge=0, le=1, description="Below it a text is dropped as unsure.")
    mixed_share: float = Field(0.2, ge=0, le=1, description="Of a wanted language in another script; keeps a text.")
    line_confidence: float = Field(0.8, ge=0, le=1, description="A line of another language is dropped from here on.")
    line_letters: int = Field(20, ge=1, description="Shorter lines are kept: nothing tells their language for sure.")


class Duplicates(Config):
    """Which documents count as the same."""

    near: bool = Field(True, description="Whether near copies go too, or exact ones only.")
    similarity: float = Field(0.8, gt=0, lt=1, description="Jaccard similarity of shingles from which on they go.")
    hashes: int = Field(112, ge=8, le=1024, description="MinHash functions: more find a little more, and cost more.")
    shingle: int = Field(5, ge=1, le=50, description="Words, or Chinese characters, that are compared as one.")
    line_documents: int | None = Field(
        None, ge=1, description="A line that stands in more documents than this is dropped from all; unset, none is."
    )
    line_bytes: int = Field(30, ge=1, description="Shorter lines are never dropped for `line_documents`.")


class Html(Config):
    """What becomes of a web page."""

    title: Literal["drop", "first_line"] = Field(
        "drop", description="Whether the page's title becomes the first line of its text."
    )


class Encoding(Config):
    """Which faults of encoding and spelling of characters are put right."""

    repair: bool = Field(True, description="UTF-8 that was read as Latin-1, Windows-1252 or GBK is read again.")
    narrow: bool = Field(False, description="Full-width letters and digits become ASCII; Chinese punctuation stays.")
    simplify: bool = Field(False, description="Traditional characters of Chinese texts become simplified ones.")


class Toxicity(Config):
    """Which words count as toxic, and how many of them a text may hold."""

    lists: tuple[FilePath, ...] = Field(
        min_length=1, description="Files with one word a line; Chinese ones are found inside of sentences."
    )
    harmless: tuple[FilePath, ...] = Field(
        (), description="Files with longer harmless words, beside those that are known."
    )
    max_density: float = Field(3.0, ge=0, description="Hits per thousand words or Chinese characters.")


class Boilerplate(Config):
    """When a line that comes again within a text is a page header rather than a refrain."""

    max_repeats: int = Field(3, ge=1, description="A line that stands in a text more often is kept once.")
    repeated_bytes: int = Field(30, ge=1, description="Shorter lines may repeat: 30 letters, 10 Chinese characters.")


class Urls(Config):
    """Addresses whose documents are dropped; lists are files with one entry a line."""

    domains: tuple[FilePath, ...] = Field(
        (), description="Lists of domains, also as hosts files; subdomains are meant too."
    )
    words: tuple[FilePath, ...] = Field(
        (), description="Lists of words that may not stand in an address as whole words."
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.domains and not self.words:
            raise ValueError("neither domains nor words are given: name at least one list, or leave the step out")
        return self


def _absolute_file(path: str) -> str:
    module, _, name = path.rpartition(":")
    if not module or not name.isidentifier():
        raise ValueError("name a function as `package.module:function` or `file.py:function`")
    return f"{located(module)}:{name}" if module.endswith(".py") else path


FunctionPath = Annotated[str, AfterValidator(_absolute_file)]


class Decontamination(Config):
    """Which evaluation texts must not be in the corpus."""

    paths: tuple[FilePath, ...] = Field(
        min_length=1, description="JSON lines or text files; every string in them counts."
    )
    ngram: int = Field(13, ge=3, le=100, description="Words, or half as many pairs of Chinese characters, in a row.")


class Perplexity(Config):
    """How surprising a text may be to an n-gram model of good texts."""

    reference: tuple[FilePath, ...] = Field(
        min_length=1, description="Good texts in all languages: JSON lines with `text`, or text files, one text a line."
    )
    order: int = Field(4, ge=2, le=8, description="Longest n-gram, in words or Chinese characters.")
    bits: int = Field(
        22, ge=10, le=28, description="Counters for each length of n-gram, as a power of two: 22 take 16 MiB."
    )
    max_perplexity: dict[str, Annotated[float, Field(gt=1)]] = Field(
        {}, description="Language to limit; a text above it is dropped."
    )
    max_quantile: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        {}, description="Language to the share of the reference texts that may stay, such as 0.99."
    )

    @model_validator(mode="after")
    def _one_limit_a_language(self) -> Self:
        both = sorted({*self.max_perplexity} & {*self.max_quantile})
        if both:
            raise ValueError(f"{', '.join(both)} has two limits: name max_perplexity or max_quantile")
        if not self.max_perplexity and not self.max_quantile:
            raise ValueError("no limit is given: name max_perplexity or max_quantile for each language to judge")
        return self


class Classifier(Config):
    """What a text must be more like, learned from examples."""

    positive: tuple[FilePath, ...] = Field(
        min_length=1, description="Examples of good texts: JSON lines with `text`, or text files, one text a line."
    )
    negative: tuple[FilePath, ...] = Field(min_length=1, description="Examples of bad ones.")
    min_probability: float = Field(0.5, ge=0, le=1, description="Of being like the good ones; below it a text goes.")
    bits: int = Field(20, ge=10, le=26, description="Weights of the model, as a power of two: 20 take 4 MiB.")
    epochs: int = Field(5, ge=1, le=1000, description="How often training goes through the examples.")
    learning_rate: float = Field(5.0, gt=0, description="At the start; it falls to 0.")
    seed: int = Field(0, ge=0, description="Of the order in which examples are seen.")


CleanStep = Literal[
    "encoding",
    "html",
    "normalize",
    "boilerplate",
    "urls",
    "language",
    "lines",
    "quality",
    "perplexity",
    "classifier",
    "toxicity",
    "privacy",
    "functions",
    "decontaminate",
    "deduplicate",
]


class Cleaning(Config):
    """The steps of cleaning, in order, and their settings."""

    clean: tuple[CleanStep, ...] = Field(
        ("normalize", "quality", "deduplicate"),
        description="Steps, in the order they are taken; each has a field of settings, and only `deduplicate` is last.",
    )
    encoding: Encoding = Encoding()
    html: Html = Html()
    boilerplate: Boilerplate = Boilerplate()
    urls: Urls | None = None
    language: Language = Field(Language(), description="For the steps `language` (texts) and `lines`.")
    quality: Quality = Quality()
    perplexity: Perplexity | None = None
    classifier: Classifier | None = None
    toxicity: Toxicity | None = None
    privacy: Privacy = Privacy()
    functions: tuple[FunctionPath, ...] = Field(
        (), description="Own filters, `package.module:name` or `file.py:name`: Arrow table in, reasons (or null) out."
    )
    decontaminate: Decontamination | None = None
    duplicates: Duplicates = Duplicates()

    def files(self) -> list[str]:
        """Returns the files beside the corpus that decide what cleaning leaves: word lists, evaluation texts."""
        settings = (self.urls, self.perplexity, self.classifier, self.toxicity, self.decontaminate)
        named = [getattr(each, field) for each in settings if each is not None for field in type(each).model_fields]
        return [path for value in named if isinstance(value, tuple) for path in value]

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if len(set(self.clean)) < len(self.clean):
            raise ValueError(f"a step stands twice in {list(self.clean)}")
        if "deduplicate" in self.clean[:-1]:
            raise ValueError("deduplicate is the last step: what comes before decides which texts are the same")
        for step in ("urls", "perplexity", "classifier", "toxicity", "decontaminate", "functions"):
            if step in self.clean and not getattr(self, step):
                raise ValueError(f"the step {step} needs its field `{step}`")
        return self
