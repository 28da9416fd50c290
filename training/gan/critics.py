def make_vision_aided(name, path):
    raise NotImplementedError
