"""Whole models in one file, in the layout of CompVis' latent diffusion (LDM) that A1111 and ComfyUI read and write."""
