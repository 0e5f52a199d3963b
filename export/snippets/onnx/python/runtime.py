class Runtime:
    """The model in ONNX Runtime."""

    def __init__(self, model):
        options = onnxruntime.SessionOptions()
        cpu = pathlib.Path("/proc/cpuinfo")
        if not (cpu.exists() and "vnni" in cpu.read_text()):
            # Without VNNI, x86-64 processors would add up int8 networks in 16 bits, which overflow.
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, values):
        if "@@LAYOUT@@" == "NCHW":
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        return self._session.run(["@@OUTPUT_NAME@@"], {"@@INPUT_NAME@@": values})[0]
