"""Training of students and everything measured on them; never imported by the runtime.

Rooms, from the ground up; each imports those before it only:

* ``common``: processes, optimisers, the timed loop, products on disk, settings, random numbers;
* ``world``: the drawn world, its captions, and the bank of latents;
* ``codec``: nano's codec;
* ``nano``: the student, and its later stages;
* ``paper``: the paper's pipeline, from a bidirectional teacher to a streaming student;
* ``evaluation``: detectors, metrics, the context gate;
* ``ablations``: tables of variants;
* ``commands``: the command line.
"""
