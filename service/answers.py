"""The native wire contract, outwards: what /score, /compare, /render and /model give.

And what a problem looks like. Only shapes. A number that is not finite cannot be written into one.
"""

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class Usage(BaseModel):
    """Tokens of a request."""

    input_tokens: int = Field(description="of all inputs together")
    computed_tokens: int = Field(description="that this request added to its batches")


class ScoreResponse(BaseModel):
    """What /score gives, each list in input order."""

    model: str
    fingerprint: str
    scores: list[FiniteFloat]
    num_tokens: list[int]
    truncated: list[bool]
    attributes: list[dict[str, FiniteFloat]] | None = Field(
        default=None, description="only for models with several attributes"
    )
    usage: Usage


class ComparisonResult(BaseModel):
    """How the responses of one comparison relate."""

    scores: list[FiniteFloat]
    ranking: list[int] = Field(description="indices of the responses, best first, ties in input order")
    best: int
    margin: FiniteFloat = Field(description="best score minus runner-up's")
    probability: FiniteFloat = Field(description="P(best beats runner-up) = sigmoid(margin / temperature)")
    shares: list[FiniteFloat] = Field(description="softmax(scores / temperature) in input order")
    pairwise: list[list[FiniteFloat]] | None = Field(description="[i][j]: P(i beats j)")
    num_tokens: list[int]
    truncated: list[bool]


class CompareResponse(BaseModel):
    """What /compare gives."""

    model: str
    fingerprint: str
    calibrated: bool
    temperature: FiniteFloat
    results: list[ComparisonResult]
    usage: Usage


class RenderedInput(BaseModel):
    """What exactly would be scored."""

    text: str | None = Field(description="null for token_ids")
    token_ids: list[int]
    truncated: bool


class RenderResponse(BaseModel):
    """What /render gives, in input order."""

    model: str
    fingerprint: str
    results: list[RenderedInput]


class CalibrationInfo(BaseModel):
    """How margins become probabilities."""

    temperature: float
    calibrated: bool
    reason: str | None
    pairs: int
    metrics: dict[str, float]


class RewardInfo(BaseModel):
    """The distribution of rewards that `normalize` uses."""

    mean: float
    std: float
    n: int


class LengthCalibrationInfo(BaseModel):
    """The curve that is taken off raw rewards, by the length of the response: linear between knots, flat beyond."""

    unit: str
    lengths: list[float]
    biases: list[float]


class ModelResponse(BaseModel):
    """What /model gives."""

    name: str
    fingerprint: str
    kind: str
    architecture: str
    attention: str
    attention_reason: str
    device: str
    dtype: str
    dtype_reason: str
    max_length: int
    rendering: str
    pooling: str
    template_sha256: str | None
    calibration: CalibrationInfo | None
    reward: RewardInfo | None
    attributes: list[str]
    golden_max_error: float | None
    versions: dict[str, str]
    length_calibration: LengthCalibrationInfo | None


class ProblemError(BaseModel):
    """One thing that is wrong with a request."""

    location: str = Field(examples=["inputs[0].response"])
    message: str


class Problem(BaseModel):
    """RFC 9457: every answer that is not a result."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:reward-model:too-long",
                    "title": "Input too long",
                    "status": 422,
                    "detail": "inputs[3]: 5120 tokens, the limit is 4096",
                    "index": 3,
                    "num_tokens": 5120,
                    "limit": 4096,
                    "request_id": "0b6f2c",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemError] | None = None
