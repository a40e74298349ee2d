"""HTCondor as a batch: submit, watch and fetch through worker processes that alone import the bindings.

`jupyter_offload.batch.condor.batch.CondorBatch` is the batch, `jupyter_offload.batch.condor.config.CondorConfig` its configuration.
"""
