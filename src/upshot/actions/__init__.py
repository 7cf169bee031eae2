"""The actions of steps, one file for each: what a step does outside of Upshot."""
