// The elementwise losses: one functor each, of the name in list.h.
//
// A functor has, for Vec<T> of float and double (half types come and go as float):
//   kOperands               how many of x (input), t (target), w (third) and p (fourth) it reads
//   Functor(const double*)  from the two parameters
//   at(operands)            the loss at these operands, of which are asked, as far as wanted,
//                           value(), d_input(), d_target() and d_third()
//   check(operands, bad)    only with kChecks: adds to `bad` the lanes where input, target or third
//                           is outside of the loss's domain; zeros must be inside
// An operand that is left out is 1 everywhere.
#pragma once

#include "kernels/elementwise_losses/differences.h"
#include "kernels/elementwise_losses/distributions.h"
#include "kernels/elementwise_losses/likelihoods.h"
#include "kernels/elementwise_losses/list.h"
#include "kernels/elementwise_losses/logits.h"
