class Runtime:
    """The model in LiteRT."""

    def __init__(self, model):
        self._interpreter = Interpreter(model_content=model)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, values):
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)
