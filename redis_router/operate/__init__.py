"""The operator's page, and the JSON beside it: what the fleet's records say, live, and actions on them.

words.py     what a record says, in words: `redis-router status` says the same
facts.py     the same as JSON
fleet.py     who is there, in words
account.py   a full account of one provider
timeline.py  what happened lately, over all providers
known.py     what is known of one provider, and its history
feed.py      the one follower of a process, and those who look on
guard.py     who may look, and who may act
actions.py   what a person may do
service.py   a request becomes an answer; it knows neither WSGI nor ASGI
wsgi.py      for the worker
asgi.py      for a gateway
"""
