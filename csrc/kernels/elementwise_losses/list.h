// The list of elementwise losses, that everything else is made from: dispatch, the binding, both
// Python fronts' names.
#pragma once

namespace dlk {

// How the operands' shapes go together, and what a mean divides by.
enum LossShapes : int {
  kTargetAsInput = 1, // else input and target are broadcast with each other
  kThirdAsInput = 2,
  kFitInput = 4,     // third and fourth are broadcast to the input, which never grows
  kWeightedMean = 8, // with a third operand the mean divides by its sum
  kVariance = 16,    // third: as the input, but for one dimension that is 1 or the last left out
  kNoTarget = 32,
  kChecked = 64, // has a domain
};

// What is outside of a loss's domain, as bits.
enum LossRefusal : int { kBadInput = 1, kBadTarget = 2, kBadThird = 4 };

} // namespace dlk

// DLK_LOSS(key, Functor, name in errors, shapes): the order is the index the kernel takes.
// clang-format off
#define DLK_ELEMENTWISE_LOSSES(DLK_LOSS)                                                           \
  DLK_LOSS(total, Total, "sum", kNoTarget)                                                         \
  DLK_LOSS(mse_loss, MseLoss, "mse_loss", kThirdAsInput | kWeightedMean)                           \
  DLK_LOSS(l1_loss, L1Loss, "l1_loss", kThirdAsInput | kWeightedMean)                              \
  DLK_LOSS(smooth_l1_loss, SmoothL1Loss, "smooth_l1_loss", 0)                                      \
  DLK_LOSS(huber_loss, HuberLoss, "huber_loss", kThirdAsInput)                                     \
  DLK_LOSS(kl_div, KlDiv, "kl_div", 0)                                                             \
  DLK_LOSS(kl_div_log_target, KlDivLogTarget, "kl_div", 0)                                         \
  DLK_LOSS(binary_cross_entropy, BinaryCrossEntropy, "binary_cross_entropy",                       \
           kTargetAsInput | kFitInput | kChecked)                                                  \
  DLK_LOSS(binary_cross_entropy_with_logits, BinaryCrossEntropyWithLogits,                         \
           "binary_cross_entropy_with_logits", kTargetAsInput | kFitInput)                         \
  DLK_LOSS(gaussian_nll_loss, GaussianNllLoss, "gaussian_nll_loss", kVariance | kChecked)          \
  DLK_LOSS(poisson_nll_loss, PoissonNllLoss, "poisson_nll_loss", 0)                                \
  DLK_LOSS(poisson_nll_loss_of_log, PoissonNllLossOfLog, "poisson_nll_loss", 0)                    \
  DLK_LOSS(sigmoid_focal_loss, SigmoidFocalLoss, "sigmoid_focal_loss", kTargetAsInput)             \
  DLK_LOSS(entropy, Entropy, "entropy", kNoTarget)                                                 \
  DLK_LOSS(cross_entropy_of_distributions, CrossEntropyOfDistributions,                            \
           "cross_entropy_of_distributions", 0)                                                    \
  DLK_LOSS(kl_divergence, KlDivergence, "kl_divergence", 0)
// clang-format on
