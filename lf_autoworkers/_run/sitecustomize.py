"""Arms the hook at interpreter start, for ``lf-autoworkers run``: that command puts this folder on PYTHONPATH.

Needed where PyTorch cannot call the entry point (torch 2.4, ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``). A ``sitecustomize``
of the machine's own is run as well.
"""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _here]  # noqa: PTH100
_own = sys.modules.pop("sitecustomize")
try:
    import sitecustomize  # noqa: F401
except ImportError:
    pass
except Exception:
    sys.excepthook(*sys.exc_info())  # as Python itself reports it; the hook is armed all the same
sys.modules.setdefault("sitecustomize", _own)  # the import that runs this file looks for it there
try:
    from lf_autoworkers._activate import activate
except ImportError:  # the command's Python is not the one the plugin is installed in
    sys.path.append(os.path.dirname(os.path.dirname(_here)))  # noqa: PTH120
    from lf_autoworkers._activate import activate

    sys.path.pop()  # nothing else of that environment is to be found here
activate()
