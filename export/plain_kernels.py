"""Runs a file on the second set of kernels that its runtime has: LiteRT's own, ONNX Runtime's unoptimised ones.

Two processors differ by rounding, as two sets of kernels do. So one machine shows what an honest difference is.
Imports neither keras nor tensorflow.
"""

import pathlib

from export import backends, runtime


class LiteRT(backends.LiteRT):
    """Without the delegate XNNPACK. The reference kernels proper take minutes for a ResNet-50."""

    def __init__(self, path, threads):
        super().__init__(path, threads)
        library = self.library()
        kernels = library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = library.Interpreter(model_path=str(path), experimental_op_resolver_type=kernels)
        self._interpreter.allocate_tensors()


class OnnxRuntime(backends.OnnxRuntime):
    """Without fusions: of quantized layers it computes what stands in the file, in float."""

    @classmethod
    def session(cls, path, model, **settings):
        level = cls.library().GraphOptimizationLevel.ORT_DISABLE_ALL
        return super().session(path, model, graph_optimization_level=level, **settings)


class PlainRunner(runtime.Runner):
    """A `Runner` on those kernels."""

    def __init__(self, path):
        super().__init__(path)
        kind = OnnxRuntime if backends.is_onnx(path) else LiteRT
        self._backend = kind(pathlib.Path(path), None)
