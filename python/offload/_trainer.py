"""Hugging Face's Trainer over an offloaded model."""
import transformers

from ._files import save
from ._optimizer import AdamW


class Trainer(transformers.Trainer):
    """transformers.Trainer whose model offload.load or offload.attach gave: its optimizer is offload.AdamW with the
    arguments' rates and clipping, and checkpoints hold the model. What a run needs to go on lies in the context's kept
    store (offload.open(keep=...), ctx.commit), not in checkpoints."""

    def create_optimizer(self, *more):
        if self.optimizer is None:
            a = self.args
            decayed = set(self.get_decay_parameter_names(self.model))
            spared = {n for n, p in self.model.named_parameters() if p.requires_grad and n not in decayed}
            self.optimizer = AdamW(self.model, no_decay=spared, lr=a.learning_rate, betas=(a.adam_beta1, a.adam_beta2), eps=a.adam_epsilon,
                                   weight_decay=a.weight_decay, clip=a.max_grad_norm or 0.0)
        return self.optimizer

    # Gradients are clipped in the step, which knows their norm.
    def _clip_grad_norm(self, model):
        return None

    def _get_grad_norm(self, model, grad_norm=None):
        return None

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *more, **named):
        if self.control.should_log:
            grad_norm = getattr(self.optimizer, "optimizer", self.optimizer).norm()
        return super()._maybe_log_save_evaluate(tr_loss, grad_norm, *more, **named)

    def _move_model_to_device(self, model, device):
        return model

    def _save(self, output_dir=None, state_dict=None):
        output_dir = output_dir or self.args.output_dir
        save(self.model, output_dir)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir):
        pass  # in the kept store

    def _load_optimizer_and_scheduler(self, checkpoint):
        pass
