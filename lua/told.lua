-- Notes how far the providers' logs were told to the webhook, for the next leader.
--
-- KEYS[1]   leader   who leads
-- KEYS[2]   told     provider -> the last entry of its log that was told; '*' for those that have none yet
-- ARGV[1]   epoch    the term of who told it
-- ARGV[2..] name, entry, ...
--
-- Returns 1, or 0 where a newer leader was elected meanwhile: then nothing is noted.
-- Why one script: a leader that was frozen must not take back what its successor noted.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
