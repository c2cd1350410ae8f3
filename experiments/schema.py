"""Every name that is tracked: the contract between `experiments` (writes) and `analysis` (reads).

One MLflow experiment holds the runs of one grid. Runs are flat and are found by their tags. A metric is one of three
kinds:

- a scalar, read by its last value (``test/token_accuracy``, ``model/parameters``); where an axis has names in place of
  numbers, there is one for each (``longer/sequence_accuracy_of_type/pp_recursion``, see `category_of`);
- a learning curve, whose step is the training step (``train/loss``, ``validation/token_accuracy``);
- a curve along another axis, whose step is the value on that axis. The axis is the end of the name
  (``test/token_accuracy_by_distance``); every other ``efficiency/`` metric is a curve by sequence length.

`axis_of` tells which. Slashes make the sections of the dashboard.
"""

# --- tags ------------------------------------------------------------------------------------------------------------
GRID = "grid"  # name of the grid, also the name of the MLflow experiment
KEY = "key"  # hash of everything that decides the result (experiments.config.run_key)
KIND = "kind"  # "learn", "efficiency", "gradients" or "profile"
TASK = "task"  # label of the task: its name and the options that differ from its defaults, "g2p(language=fre)"
MODEL = "model"  # label of the model, likewise: "transformer", "transformer(layers=4)"
SEED = "seed"
PHASE = "phase"  # "tuning" or "final"; a run without it is of the final phase
TRIAL = "trial"  # number, from 1, of a trial or of the one that was chosen; absent where nothing is tuned
TUNED = "tuned"  # what that trial sets, in words: "learning_rate=0.003, dropout=0.1"
SAMPLER = "sampler"  # what chose these settings to be tried: RANDOM or TPE; absent likewise
PRUNED = "pruned"  # of a trial that was ended early: why, in words; absent otherwise
DEVICE = "device"  # "cpu" or "cuda"
HARDWARE = "hardware"  # the processor or GPU in words
REASON = "reason"  # why a FAILED run failed
HOST = "host"  # the machine that executes the run
LEASE = "lease"  # until when, in seconds since 1970, a RUNNING run is alive without being heard of again
GIT_COMMIT = "git_commit"
GIT_DIRTY = "git_dirty"  # "true" or "false"
COMMAND = "command"  # what asked for the run: "lvt run real --profile small"; absent where no command did
VERSIONS = "versions"  # of what the result may depend on, in words: "python 3.11.9, torch 2.13.0"
HEADLINE = "headline"  # name of the metric that decides on this task, without its split: "token_accuracy", "wer"
# What the budget counts, in words ("parameters", "training FLOPs per token at length 64", "bytes of decoding state at
# length 64"); absent where no budget was asked for.
BUDGET_OF = "budget_of"
CHANCE = "chance"  # token accuracy of guessing, a number as text; absent where it is not known in closed form
MEMORYLESS_LOSS = "memoryless_loss"  # loss of a predictor that remembers nothing, likewise
# Which dependencies the task measures, each with the axis of its curves that shows it: "distance=distance items=pairs".
# Absent where it measures none; `dependencies` reads it.
MEASURES = "measures"
LANGUAGE_CLASS = "language_class"  # of a formal language: one of LANGUAGE_CLASSES; absent for all other tasks

DESCRIPTION = "description"  # of an experiment: what its grid compares; MLflow's own note has more
RUN_COLOR = "mlflow.runColor"
NOTE = "mlflow.note.content"
LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"  # tells the dashboard which artifacts are tables
EXPERIMENT_KIND = "mlflow.experimentKind"  # decides which pages the dashboard offers
TRAINING_EXPERIMENT = "custom_model_development"
INDEX_RUN = "index"  # of an experiment: the id of its run of the kind INDEX; absent in a SQLite store
FINISHED_KEY = "finished."  # of that run: tags "finished.<key>", the id of the finished run

# --- how far a run is: MLflow's status --------------------------------------------------------------------------------
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"

# --- kinds of run ----------------------------------------------------------------------------------------------------
LEARN = "learn"
EFFICIENCY = "efficiency"
GRADIENTS = "gradients"
REPORT = "report"  # holds the report of its grid as artifacts; nothing is measured in it
PROFILE = "profile"
INDEX = "index"  # names the finished runs of its grid (experiments.index); nothing is measured in it

# --- phases of a grid ------------------------------------------------------------------------------------------------
TUNING = "tuning"  # a trial: what it shows chooses settings, and enters no comparison
FINAL = "final"  # everything else
RANDOM = "random"  # settings of trials: drawn, whatever became of the others
TPE = "tpe"  # each asked for when those before it are over: no trial stands for another

# --- what a task measures: three kinds of long dependency, kept apart -------------------------------------------------
DISTANCE = "distance"  # between what is needed and where it is needed, in the range of training
ITEMS = "items"  # how many things must be kept
LENGTH = "length"  # beyond the lengths of training (the split `longer`)
REGULAR, CONTEXT_FREE, CONTEXT_SENSITIVE = "regular", "context_free", "context_sensitive"
LANGUAGE_CLASSES = (REGULAR, CONTEXT_FREE, CONTEXT_SENSITIVE)  # the Chomsky hierarchy, from the bottom

# --- integrity gates: tags "gate.<name>", "pass" or the reason of the failure ----------------------------------------
GATE_PREFIX = "gate."
GATE_PASSED = "pass"

# --- evaluation splits, the first part of a metric's name ------------------------------------------------------------
VALIDATION = "validation"  # selects the checkpoint
TEST = "test"  # read once, in the range of training
# Read once, out of the range of training (longer sequences, or combinations that training does not show); absent for
# tasks without one.
LONGER = "longer"
SPLITS = (VALIDATION, TEST, LONGER)

# --- metrics of an evaluation, the second part of the name -----------------------------------------------------------
LOSS = "loss"  # nats per target token
TOKEN_ACCURACY = "token_accuracy"  # share of target positions predicted, 0..1
SEQUENCE_ACCURACY = "sequence_accuracy"  # share of sequences with every token right (exact match), 0..1
WER = "wer"  # word error rate of grapheme-to-phoneme: 1 - sequence accuracy, 0..1
PER = "per"  # phoneme error rate: edit distance / reference length, may exceed 1
CER = "cer"  # character error rate of texts: edit distance / reference length, may exceed 1
EDIT_DISTANCE = "edit_distance"  # mean number of characters to change in a text (Levenshtein)
BLEU = "bleu"  # sacreBLEU's, tokenised by 13a, 0..100; the tag "signature.bleu" holds how exactly
CHRF = "chrf"  # sacreBLEU's, 0..100; likewise
LOWER_IS_BETTER = frozenset({LOSS, WER, PER, CER, EDIT_DISTANCE})

# --- how metrics of other libraries were computed: tags "signature.<metric>", as sacreBLEU writes them ---------------
SIGNATURE_PREFIX = "signature."

# --- what is said of predictions that are too many to keep: tags "predictions.<split>", absent where all are kept ----
PREDICTIONS_PREFIX = "predictions."

# --- the data (scalar) -----------------------------------------------------------------------------------------------
TRAINING_SEQUENCES = "data/training_sequences"  # of a corpus; absent where every step draws a fresh sample

# --- metrics of a model (scalars) ------------------------------------------------------------------------------------
PARAMETERS = "model/parameters"
STATE = "model/state_bytes"  # decoding state after the longest source and target of the test set, one sequence, float32
PARAMETER_PARTS = ("embedding", "encoder", "attention", "decoder", "output")  # model/parameters_<part>
MATCH_ERROR = "model/match_error"  # what the model has of the budgeted quantity / budget - 1; absent without a budget
BUDGET = "model/budget"  # the budget, in the quantity that the tag BUDGET_OF names; absent likewise

# --- metrics of training (learning curves, by training step) ---------------------------------------------------------
TRAIN_LOSS = "train/loss"
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_GRADIENT_NORM = "train/gradient_norm"
TRAIN_TOKENS_PER_SECOND = "train/tokens_per_second"  # source and target tokens; evaluation time left out
TRAIN_TOKENS = "train/tokens"  # seen so far, logged with every evaluation
TRAIN_SECONDS = "train/seconds"  # spent in training so far, evaluation left out; logged with every evaluation
TRAIN_FLOPS = "train/flops"  # analytic, spent so far; logged with every evaluation
SOLVED_STEP = "solved/step"  # scalar: the step that ended a training early, its task solved; absent otherwise
PRUNED_STEP = "pruned/step"  # scalar: the step that ended a trial early; absent otherwise. Such a trial selects nothing
# Scalars of the checkpoint that validation selected: its step, and as "selected/<score>" its scores on validation, the
# best of the training, where the curve "validation/<score>" ends with the last. The headline's chooses among trials.
SELECTED = "selected"
SELECTED_STEP = "selected/step"

# --- metrics of an efficiency run ------------------------------------------------------------------------------------
# Curves by sequence length (source = target = length) or, where the name says so, by position of the target. The runs
# of a grid that have the same efficiency settings are measured side by side, repetition by repetition (A B C A B C), so
# that their seeds are interleaved repeats. Every time is a median of repetitions; `spread` names what stands beside it.
TRAIN_STEP_SECONDS = "efficiency/train_step_seconds"  # forward, backward, optimiser
ENCODE_SECONDS = "efficiency/encode_seconds"  # one batch of sources ("prefill")
DECODE_SECONDS = "efficiency/decode_seconds"  # logits of all target positions (teacher forcing), given the memory
GENERATE_SECONDS = "efficiency/generate_seconds"  # greedy, cached: encode, start, and `decode_tokens` steps
GENERATE_NAIVE_SECONDS = "efficiency/generate_naive_seconds"  # the same tokens; each by reading all before it anew
STEP_SECONDS = "efficiency/step_seconds_by_position"  # cached `step` of the batch for that position, the first being 1
STEPS_IN_A_ROW = 10  # of one position, as in generating: alone, a step finds the caches as another model left them
PHASES = {  # name of the phase → its time
    "train_step": TRAIN_STEP_SECONDS,
    "encode": ENCODE_SECONDS,
    "decode": DECODE_SECONDS,
    "generate": GENERATE_SECONDS,
    "generate_naive": GENERATE_NAIVE_SECONDS,
    "step": STEP_SECONDS,
}
# Of a time, by `spread`: quartiles of the repetitions in seconds, and the width of the 95 % interval of the median as a
# share of the median (absent with less than six repetitions, where there is none).
LOWER_QUARTILE, UPPER_QUARTILE, INTERVAL = "q1", "q3", "interval"
TRAIN_STEP_SECONDS_LOW = "efficiency/train_step_seconds_q1"  # what `spread` makes of TRAIN_STEP_SECONDS
TRAIN_STEP_SECONDS_HIGH = "efficiency/train_step_seconds_q3"
EFFICIENCY_TRAIN_TOKENS_PER_SECOND = "efficiency/train_tokens_per_second"  # source and target tokens
GENERATE_TOKENS_PER_SECOND = "efficiency/generate_tokens_per_second"  # of the whole batch, cached, encoding included
GENERATE_NAIVE_TOKENS_PER_SECOND = "efficiency/generate_naive_tokens_per_second"
DECODE_SECONDS_PER_TOKEN = "efficiency/decode_seconds_per_token"  # greedy, cached, one step of the batch; median
DECODE_SECONDS_PER_TOKEN_P95 = "efficiency/decode_seconds_per_token_p95"  # of all steps of all repetitions
DECODE_NAIVE_SECONDS_PER_TOKEN = "efficiency/decode_naive_seconds_per_token"  # the same where all is read anew
DECODE_NAIVE_SECONDS_PER_TOKEN_P95 = "efficiency/decode_naive_seconds_per_token_p95"
PEAK_MEMORY = "efficiency/peak_memory_bytes"  # of a training step, over what the process held before it
ENCODE_PEAK_MEMORY = "efficiency/encode_peak_memory_bytes"  # of encoding one batch of sources, likewise
DECODE_PEAK_MEMORY = "efficiency/decode_peak_memory_bytes"  # of teacher forcing and the encoding before it, likewise
GENERATE_PEAK_MEMORY = "efficiency/generate_peak_memory_bytes"  # of cached generation, likewise
PEAK_MEMORIES = {  # name of the phase → the memory that it takes
    "train_step": PEAK_MEMORY,
    "encode": ENCODE_PEAK_MEMORY,
    "decode": DECODE_PEAK_MEMORY,
    "generate": GENERATE_PEAK_MEMORY,
}
STATE_BYTES = "efficiency/state_bytes_per_sequence"  # decoding state after `length` tokens, analytic
TRAIN_STEP_FLOPS = "efficiency/train_step_flops"  # of the whole batch, analytic
PHASE_FLOPS = {  # the same of each phase that has no detours
    "train_step": TRAIN_STEP_FLOPS,
    "encode": "efficiency/encode_flops",
    "decode": "efficiency/decode_flops",
    "generate": "efficiency/generate_flops",
    "step": "efficiency/step_flops_by_position",
}
ATTENTION_SHARE = "efficiency/attention_flops_share"  # of a training step's: scores and weighted sums, S·T; 0..1
PEAK_SHARE = (
    "efficiency/matmul_peak_share"  # FLOP/s of the training step / FLOP/s of the best square matmul, same process
)
BATCH_SIZE = "efficiency/batch_size"  # sequences per batch at this length
# By NVIDIA's own counter, absent on any other device: name of the phase → joules for 1,000 tokens, those of source and
# target for a training step, of the source for encoding, else of the target.
ENERGIES = {
    "train_step": "efficiency/train_joules_per_1000_tokens",
    "encode": "efficiency/encode_joules_per_1000_tokens",
    "decode": "efficiency/decode_joules_per_1000_tokens",
    "generate": "efficiency/generate_joules_per_1000_tokens",
}
# Kernels launched on a CUDA device, counted apart from what is timed; absent on any other: name of the phase → those of
# a training step; those of one more token of every sequence, cached, with the choice of it.
SWEEP_LAUNCHES = {
    "train_step": "efficiency/train_launches_per_step",
    "generate": "efficiency/generate_launches_per_token",
}
# The state of the machine while a length (or, by position, a position) was measured; of a length's phases the last
# one's, but disturbed is a length of which any phase was.
LOAD = "efficiency/load_average"  # of the last minute
THREADS = "efficiency/threads"  # that torch may use
CLOCK = "efficiency/clock_hertz"  # of the device, at the end; absent where it cannot be read
# 1 where other processes took more than a tenth of one core's time (beside a GPU: and left no core idle) or computed on
# the same GPU, else 0.
DISTURBED = "efficiency/disturbed"
MACHINE = (LOAD, THREADS, CLOCK, DISTURBED)  # each also `by_position`

# Where a model's sweep of a phase ended before the last length or position: a scalar, the first that was not measured,
# and a tag with the reason. Both are absent where the whole sweep was measured.
STOPPED_AT = "stopped/"  # metric "stopped/<phase>"
STOPPED_BY = "stopped."  # tag "stopped.<phase>": "memory" or "time", and what happened in words: "memory: …"
BY_MEMORY, BY_TIME = "memory", "time"

# --- metrics of a gradients run (curves by distance), before training and after it -----------------------------------
INITIAL, TRAINED = "initial", "trained"
# Norm of ∂loss/∂(embedded input) at the token that is so far before the loss; 0 where it has vanished in float32.
GRADIENT_NORM = {INITIAL: "gradients/initial_norm_by_distance", TRAINED: "gradients/trained_norm_by_distance"}
GRADIENT_OUTPUT_NORM = {  # norm of ∂loss/∂logits, where it starts, on the same streams
    INITIAL: "gradients/initial_output_norm_by_distance",
    TRAINED: "gradients/trained_output_norm_by_distance",
}
GRADIENT_ACCURACY = {  # share of right answers there, 0..1
    INITIAL: "gradients/initial_accuracy_by_distance",
    TRAINED: "gradients/trained_accuracy_by_distance",
}

# --- metrics of a profile (scalars): where a training step's time goes ----------------------------------------------
# Parts of a step, in the order of tables and figures: those of models, those of every training, and what remains.
STEP_PARTS = (
    *("attention", "feed-forward", "recurrence", "embedding", "normalisation", "output layer", "softmax and loss"),
    *("optimiser", "data", "logging", "other"),
    "between operations",  # of no part: Python, autograd, and the profiler itself; on CUDA, where it does not count: 0
    "device idle",  # on CUDA: when no kernel was at work
)
# Seconds a step of each; they add up to the step. A run has no "device idle" where there is no CUDA device.
PART_SECONDS = {part: f"profile/seconds_of_{part.replace(' ', '_')}" for part in STEP_PARTS}
LAUNCHES = "profile/launches_per_step"  # of kernels on a CUDA device; absent elsewhere

# --- what the whole run took (scalar) --------------------------------------------------------------------------------
RUN_SECONDS = "run/seconds"

# --- artifacts -------------------------------------------------------------------------------------------------------
CONFIG_ARTIFACT = "config.json"
ENVIRONMENT_ARTIFACT = "environment.json"
CHECKPOINT_ARTIFACT = "checkpoint/model.pt"
MODEL_CONFIG_ARTIFACT = "checkpoint/model.json"
# split → a table: source, reference, prediction, correct, and a column for each axis with names (COGS's "type")
PREDICTIONS_ARTIFACTS = {TEST: "predictions.json", LONGER: "predictions_longer.json"}
# {"examples": [{"source": symbols, "target": symbols, "weights": a row for each of the target}]} of learning runs with
# attention to the source: mean weights over layers and heads on a few test sequences, the same for every model.
ATTENTION_ARTIFACT = "attention.json"
TRACE_ARTIFACT = "profile/trace.json.gz"  # for chrome://tracing or ui.perfetto.dev
PROFILE_ARTIFACT = "profile/parts.json"  # a table: part, milliseconds a step, share


def metric(split: str, name: str, axis: str | None = None) -> str:
    """Full name of an evaluation metric: ``metric("test", "wer")`` → ``"test/wer"``; with an axis, the curve by it."""
    return f"{split}/{name}_by_{axis}" if axis else f"{split}/{name}"


def dependencies(tag: str) -> dict[str, str]:
    """What the tag `MEASURES` says: ``"items=pairs"`` → ``{"items": "pairs"}``, the kind and the axis that shows it."""
    return dict(part.split("=") for part in tag.split())


def by_position(name: str) -> str:
    """The metric that is measured by length, measured by position: ``"efficiency/threads_by_position"``."""
    return f"{name}_by_position"


def spread(time: str, measure: str) -> str:
    """Name of a time's quartile or interval: ``"…/encode_seconds_q1"``, ``"…/step_seconds_q1_by_position"``."""
    name, by, axis = time.partition("_by_")
    return f"{name}_{measure}{by}{axis}"


def of_category(name: str, axis: str, category: str) -> str:
    """The metric `name` on one value of an axis with names: ``"sequence_accuracy_of_type/pp_recursion"``."""
    return f"{name}_of_{axis}/{category}"


def category_of(name: str) -> tuple[str, str, str] | None:
    """Metric, axis and category of a full name that `of_category` is part of; None for any other name.

    ``"longer/sequence_accuracy_of_type/pp_recursion"`` → ``("longer/sequence_accuracy", "type", "pp_recursion")``.
    """
    section, _, rest = name.partition("/")
    before, slash, category = rest.partition("/")
    metric_name, of, axis = before.rpartition("_of_")
    return (f"{section}/{metric_name}", axis, category) if slash and of else None


def axis_of(name: str) -> str:
    """What a metric's step counts: ``"step"``, ``"length"``, ``"distance"``, …, or ``""`` for a scalar."""
    section, last = name.split("/")[:2]
    if "_by_" in last:
        return last.rpartition("_by_")[2]
    if section == EFFICIENCY:
        return "length"
    return "step" if section in ("train", VALIDATION) else ""


# One colour for each model in the dashboard and in every figure (Okabe & Ito's colour-blind safe set).
MODEL_COLORS = {
    "lstm": "#D55E00",
    "lstm_attention": "#009E73",
    "transformer": "#0072B2",
    "lstm_transformer": "#CC79A7",
    "transformer_lstm": "#E69F00",
}
# For variants, in the order of their labels: what is left of that set, and a violet and an olive apart from it.
OTHER_COLORS = ("#56B4E9", "#000000", "#8C6BB1", "#999933")
