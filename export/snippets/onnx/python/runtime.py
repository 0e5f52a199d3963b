class Runtime:
    """The model in ONNX Runtime."""

    def __init__(self, model):
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(self, values):
        if "@@LAYOUT@@" == "NCHW":
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        return self._session.run(["@@OUTPUT_NAME@@"], {"@@INPUT_NAME@@": values})[0]
