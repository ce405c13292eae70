"""The choice of the neuron that a subdomain is split by."""
from __future__ import annotations
import torch
from torch import Tensor
from robustbench_dyn.certification.branch_and_bound.ascent import Ascent
from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.subdomains import Subdomains
MODE='loss'
def choose(problem, domains, objectives, owners, margins, ascent):
    lo,up=domains.lower,domains.upper
    und=domains.undecided
    w=(up-lo).where(und,1.)
    intercept=((1-problem.min_slope)*up*-lo/w).where(und,0.)
    loss=ascent.neurons.abs()*intercept[owners].to(ascent.neurons)
    # deficiency weights
    score=torch.zeros_like(lo)
    deficit=(-ascent.value).clamp_min(1e-3) 
    if MODE=='worst':
        worst=domains.value.where(domains.unproved,torch.inf).argmin(1)
        keep=worst[owners]==margins
        score[owners[keep]]=loss[keep].double()
    else:
        open_=domains.unproved[owners,margins]
        score.index_add_(0,owners[open_],loss[open_].double())
    score=score.where(und,-1.)
    if MODE=='first':
        n1=problem.layers[0].columns.stop
        has=und[:,:n1].any(1)
        score[:,:n1]+=1e6*und[:,:n1]
    if MODE.startswith('pref'):
        n1=problem.layers[0].columns.stop
        score[:,:n1]*=float(MODE[4:])
    return score.argmax(1)
