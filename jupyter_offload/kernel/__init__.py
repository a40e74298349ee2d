"""The user's side: magics, futures, the job card. A REST client of the service; it holds no state that matters."""
