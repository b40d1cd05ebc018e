/* update_plain: the loops for any processor. See update_loops.h. */
#define OPTIM_FORM optim_form_plain
#include "liboffload/optim/update_loops.h"
