"""The extension alone, without torch: every call, and what each refuses. Prints nothing if all holds."""
import array
import errno
import importlib.machinery
import importlib.util
import os
import sys
import tempfile

loader = importlib.machinery.ExtensionFileLoader("_core", sys.argv[1])
core = importlib.util.module_from_spec(importlib.util.spec_from_loader("_core", loader))
loader.exec_module(core)


def refused(words, call, *args, code=None):
    try:
        call(*args)
    except core.Error as e:
        assert words in str(e), f"{e} does not say {words}"
        assert code is None or e.code == code, e.code
    else:
        raise AssertionError(f"not refused: {words}")


def opened(directory, keep=None):
    return core.open("host", 1 << 20, 2 << 20, [(directory, 64 << 20)], keep, 0, 1, 0, 0, 1 << 20, 0)


with tempfile.TemporaryDirectory(dir=sys.argv[2]) as directory:
    refused("host", core.open, "host", 1 << 20, 1 << 10, [], None, 0, 1, 0, 0, 0, 0, code=5001)
    try:
        type(opened(directory))()
    except TypeError:
        pass
    else:
        raise AssertionError("a context out of nothing")

    c = opened(directory, directory + "/kept")
    assert c.resume() is None
    f32 = core.DTYPES["f32"]
    w = c.tensor("w", core.KIND_WEIGHT, f32, 1000, core.TENSOR_KEPT)
    g = c.tensor("g", core.KIND_GRADIENT, f32, 1000, 0)
    values = array.array("f", range(1000))
    w.write(0, values.buffer_info()[0], 4000)
    ones = array.array("f", [1.0] * 1000)
    g.write(0, ones.buffer_info()[0], 4000)
    back = array.array("f", [0.0] * 1000)
    w.read(0, back.buffer_info()[0], 4000)
    assert back == values

    lease = c.acquire([w], core.READ, 0)
    memory = lease.memory(0).cast("f")
    assert memory[999] == 999.0 and len(lease.addresses()) == 1
    refused("leased", c.acquire, [w], core.OVERWRITE, 0)
    refused("no such tensor", lease.memory, 1)
    lease.release()
    refused("released", lease.memory, 0)
    lease.release()  # nothing is left to do

    o = c.optimizer()
    o.bind(w, g)
    c.step_begin("s")
    seen = []
    o.reduce(lambda memory, dtype: seen.append((len(memory), dtype, memory.readonly)))
    o.step([w], 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 1)
    assert seen == [(4000, "f32", False)]
    c.step_end()
    assert abs(o.norm() - 1000 ** 0.5) < 1e-9
    w.read(0, back.buffer_info()[0], 4000)
    assert abs(back[500] - 499.9) < 1e-3
    o.state(w, core.STATE_EXP_AVG).read(0, back.buffer_info()[0], 4000)
    assert back[0] > 0
    g.write(0, ones.buffer_info()[0], 4000)

    def fails(memory, dtype):
        raise ValueError("the network is gone")

    o.reduce(fails)
    refused("returned 1: nothing is updated", o.step, [w], 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 2, code=errno.ECANCELED)
    try:
        o.step([w], 0.1, 0.9, 0.999, 1e-8, 0.0, 1.0, 2)
    except core.Error as e:
        assert isinstance(e.__cause__, ValueError), e.__cause__
    o.reduce(None)
    refused("betas lie in", o.rates, w, 0.1, 1.0, 0.999, 1e-8, 0.0)
    o.rates(w, 0.1, 0.9, 0.999, 1e-8, 0.0)
    c.hint([w], core.HINT_NEXT)
    c.timeline_open(directory + "/trace.json")
    assert c.timeline_close()[1] == 0
    assert c.stats()["updates"] == 1 and isinstance(c.stalls(), list)
    c.commit(b"note")
    assert c.commit_wait() == 1

    child = os.fork()
    if child == 0:
        try:
            refused("forked", c.stats)
            refused("forked", w.destroy)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    g2 = c.tensor("g2", core.KIND_GRADIENT, f32, 10, 0)
    g2.destroy()
    refused("destroyed", g2.destroy)
    held = c.acquire([g], core.READ, 0)
    c.close()
    c.close()
    held.release()  # after its context
    refused("closed", c.stats)
    refused("closed", w.read, 0, 0, 0)
    refused("closed", o.norm)

    c = opened(directory, directory + "/kept")
    assert c.resume() == (1, b"note")
    w = c.tensor("w", core.KIND_WEIGHT, f32, 1000, core.TENSOR_KEPT)
    assert w.resumed()
    w.read(0, back.buffer_info()[0], 4000)
    assert abs(back[500] - 499.9) < 1e-3

    if len(sys.argv) > 3:  # a directory with a model
        s = c.source(sys.argv[3] + "/model.safetensors")
        name, dtype, shape, size = s.entries()[0]
        t = s.bind(name, core.KIND_WEIGHT)
        lease = c.acquire([t], core.READ, 0)
        assert len(lease.memory(0)) == size
        lease.release()
        refused("there is no tensor", s.bind, "no such tensor", core.KIND_WEIGHT)
        s.check()
        refused("source", c.acquire, [t], core.UPDATE, 0)
    del c, w, o, g, held, lease, memory
