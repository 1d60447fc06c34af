"""What settings of other programs are called here, for the error that refuses theirs; docs/coming-from.md has more.

Names of Monodepth2 and Lite-Mono are options of their commands, those of Lightning arguments of its `Trainer`, those of
Ultralytics `name=value` on its command line. Only names that are no keys here, and that a spelling check cannot guess.
"""

from __future__ import annotations

import re

_LAUNCH = "accelerate launch --num_processes"  # the number of processes belongs to the launcher
_FOLDER = "--ckpt-dir and --name"
FOREIGN = {
    # Monodepth2 (arXiv:1806.01260), and Lite-Mono (arXiv:2211.13202), which has its options
    "data_path": "dataset.root",
    "log_dir": _FOLDER,
    "model_name": _FOLDER,
    "height": "dataset.size=[width,height]",
    "width": "dataset.size=[width,height]",
    "num_layers": "net.depth.enc_name=resnet50 and net.pose.enc_name",
    "weights_init": "net.depth.pretrained and net.pose.pretrained",
    "scales": "net.depth.out_scales",
    "frame_ids": "dataset.supp_idxs, without the target",
    "use_stereo": "dataset.supp_idxs with 0 in it",
    "disparity_smoothness": "loss.disp_smooth.weight",
    "learning_rate": "optimizer.lr",
    "num_epochs": "trainer.max_epochs",
    "scheduler_step_size": "scheduler.step_size",
    "avg_reprojection": "loss.img_recon.use_min=false",
    "disable_automasking": "loss.img_recon.use_automask=false",
    "predictive_mask": "net.depth.mask_name=explainability and loss.img_recon.mask_name",
    "no_ssim": "loss.img_recon.loss_name=l1",
    "load_weights_folder": "monodepth convert, then trainer.load_ckpt",
    "log_frequency": "trainer.log_every_n_steps",
    "eval_mono": "--alignment median",
    "eval_stereo": "--alignment stereo",
    "eval_split": "--cfg-file eval/kitti_eigen or another page of eval/",
    "post_process": "--flip",
    "ext_disp_to_eval": "--pred-file",
    "mypretrain": "trainer.load_ckpt",
    # Lightning
    "accelerator": "accelerate launch --config_file",
    "strategy": "accelerate launch --config_file",
    "devices": _LAUNCH,
    "gpus": _LAUNCH,
    "num_nodes": "accelerate launch --num_machines",
    "callbacks": "trainer.early_stopping, trainer.monitor, trainer.swa",
    "fast_dev_run": "monodepth train-dev",
    "max_steps": "trainer.max_epochs with trainer.limit_train_batches",
    "max_time": "trainer.max_minutes",
    "val_check_interval": "trainer.limit_train_batches: every epoch ends with a validation",
    "overfit_batches": "trainer.limit_train_batches with loader.train.shuffle=false",
    "enable_progress_bar": "--progress",
    "profiler": "--profile",
    "default_root_dir": "--ckpt-dir",
    # Ultralytics
    "data": "dataset.type and dataset.root",
    "epochs": "trainer.max_epochs",
    "time": "trainer.max_minutes",
    "patience": "trainer.early_stopping.patience",
    "batch": "loader.batch_size",
    "imgsz": "dataset.size=[width,height]",
    "cache": "monodepth prepare cache, then dataset.decoded_root",
    "device": _LAUNCH,
    "workers": "loader.num_workers",
    "project": _FOLDER,
    "resume": "the same command again: it continues the run",
    "amp": "trainer.precision",
    "lr0": "optimizer.lr",
    "lrf": "scheduler.eta_min",
    "cos_lr": "scheduler.type=cos",
    "warmup_epochs": "scheduler.warmup",
    # Sections and keys of arXiv:2208.01489 and arXiv:2307.10713 that read otherwise here
    "args": "evaluation.metrics, evaluation.min_depth, evaluation.max_depth",
    "use_eigen_crop": "evaluation.crop=garg",
    "align_mode": "evaluation.alignment",
    # Keys of other sections
    "batch_size": "loader.batch_size",
    "num_workers": "loader.num_workers",
    "lr": "optimizer.lr",
    "max_epochs": "trainer.max_epochs",
}


def use_instead(name: str, where: str = "") -> str:
    """Return what to use for a setting that another program calls `name`: "loader.batch_size"; "" = not known.

    where: the dotted key that was refused, which is never the answer.
    """
    known = FOREIGN.get(name.strip("-").replace("-", "_"), "")
    return "" if where and re.match(rf"{re.escape(where)}(?![\w.])", known) else known
