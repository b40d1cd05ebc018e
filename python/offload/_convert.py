"""Which tensors of a checkpoint make a parameter: renamed, or converted as transformers does when it loads."""
import copy

from ._parameters import DTYPES, Error

_READABLE = set(DTYPES.values())


def _mapping(model):
    """(renamings, converters, the function that applies them) of transformers; nothing where it has none."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key, dot_natural_key
    except ImportError:  # before version 5: names are those of the file
        return [], [], None, str
    mapping = get_model_conversion_mapping(model) or []
    return [m for m in mapping if isinstance(m, WeightRenaming)], [m for m in mapping if isinstance(m, WeightConverter)], \
        rename_source_key, dot_natural_key


def changed_by_loading(model, names):
    """The first of these names whose tensor transformers would take for another, or convert, if it found it in a file."""
    renamings, converters, rename, _ = _mapping(model)
    has = set(names)
    for name in names if rename else ():
        target, pattern = rename(name, renamings, converters)
        if pattern is not None or (target != name and target in has):
            return name
    return None


class Recipe:
    """Of one parameter, or of several that are made together: tensors of files, and what makes it of them."""

    def __init__(self, target, converter=None):
        self.target, self.converter, self.sources = target, converter, []

    def make(self, model, read, dtype):
        """{name: tensor}; read(name) gives a tensor of the checkpoint."""
        if self.converter is None:
            return {self.target: read(self.sources[0][0]).to(dtype)}
        converter = copy.deepcopy(self.converter)
        for source, pattern in self.sources:
            converter.add_tensor(self.target, source, pattern, lambda source=source: read(source).to(dtype))
        try:
            made = converter.convert(self.target, model=model, config=model.config)
        except Exception as e:
            raise Error(f"{self.target}: transformers can't make it of {len(self.sources)} tensors, {self.sources[0][0]} to "
                        f"{self.sources[-1][0]}: {e}") from e
        return {name: t[0] if isinstance(t, list) else t for name, t in made.items()}


class Recipes:
    """files: {name: (path, source, dtype's name, shape)}. model: its parameters may be without memory."""

    def __init__(self, directory, model, files):
        self.directory, self.model, self.files = directory, model, files
        self.by_target = {}
        renamings, converters, rename, order = _mapping(model)
        by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
        state = model.state_dict()
        base = getattr(model, "base_model_prefix", "")
        for source in sorted(files, key=order):
            target, pattern = rename(source, renamings, converters, base, state) if rename else (source, None)
            if target not in state and source in state:
                target, pattern = source, None
            if target not in state:  # of a model without the base's name in front, or the other way round
                target = next((t for t in (target.removeprefix(base + "."), f"{base}.{target}") if t in state), None)
            if target is None:
                continue  # nothing in the model has it
            recipe = self.by_target.setdefault(target, Recipe(target, by_pattern[pattern] if pattern is not None else None))
            recipe.sources.append((source, pattern))
            if recipe.converter is None and len(recipe.sources) > 1:
                raise Error(f"{directory}: both {recipe.sources[0][0]} and {source} are {target} of {type(model).__name__}")

    def check(self, names):
        """Whether each parameter of these is there, as numbers."""
        several = any(r.converter is not None and len(r.converter.target_patterns) > 1 for r in self.by_target.values())
        for name, p in names:
            recipe = self.by_target.get(name)
            if recipe is None and not several:
                self.refuse(name)
            if recipe is None:
                continue
            for source, _ in recipe.sources:
                kind, shape = self.files[source][2:4]
                if kind not in _READABLE:
                    raise Error(f"{self.directory}: {source} is {kind}: quantized checkpoints are not read: load the model "
                                "with transformers, dequantized, and give it to offload.attach")
                if recipe.converter is None and shape != tuple(p.shape):
                    raise Error(f"{self.directory}: {source} is {shape}, and {tuple(p.shape)} in {type(self.model).__name__}")

    def refuse(self, name):
        raise Error(f"{self.directory}: no tensor for {name} of {type(self.model).__name__}, under its own name or one that "
                    "transformers converts: load the model with from_pretrained and give it to offload.attach")

    def file_of(self, name):
        """(path, source, dtype's name, shape, name there) of a parameter that is to be read in place."""
        recipe = self.by_target.get(name)
        if recipe is None:
            self.refuse(name)
        if recipe.converter is not None:
            first = recipe.sources[0][0]
            raise Error(f"{self.directory}: {name} is made of {len(recipe.sources)} tensors of the files, {first} among them: it "
                        "can't be read in place: load it with trainable=True, or save it once with offload.save and "
                        "load that")
        return (*self.files[recipe.sources[0][0]], recipe.sources[0][0])

    def read(self, source):
        from safetensors import safe_open

        with safe_open(self.files[source][0], "pt") as f:
            return f.get_tensor(source)

    def fill(self, wanted):
        """For each (name, parameter, function that takes the tensor): a tensor, or a group that is converted, at a time."""
        wanted = {name: (p, take) for name, p, take in wanted}
        for target, recipe in self.by_target.items():
            if target not in wanted and recipe.converter is None:
                continue
            dtype = wanted[target][0].dtype if target in wanted else next(iter(wanted.values()))[0].dtype
            for name, tensor in recipe.make(self.model, self.read, dtype).items():
                if name not in wanted:
                    continue
                p, take = wanted.pop(name)
                if tuple(tensor.shape) != tuple(p.shape):
                    raise Error(f"{self.directory}: {recipe.sources[0][0]} and others come to {tuple(tensor.shape)}, and {name} "
                                f"is {tuple(p.shape)} in {type(self.model).__name__}")
                take(tensor)
        if wanted:
            self.refuse(next(iter(wanted)))
