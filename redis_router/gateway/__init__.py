"""A ready gateway on the public API: `redis-router gateway -c config.yaml`.

    settings.py   what the gateway is told, as values
    keys.py       who may ask
    config/       the file: read, checked, and turned into Settings
    exchange.py   what goes back to one client
    relay.py      one request, through the failover transport, and its answer
    upstreams.py  the connections to the providers
    app.py        the routes, the life of the router, the file read again
    serving.py    uvicorn: processes, limits of what comes in, the end on SIGTERM

Imports go up this list, and to `redis_router` and `redis_router.integrations.httpx`.
"""
