#!lua flags=allow-oom
-- Ends a unit on this server, as its channels are given to another one: from here on nobody has the generation, and nobody is
-- given one, before the unit is brought back here.
-- KEYS: fence. Answers whether it was not ended before.
if redis.call('HGET', KEYS[1], 'moved') then return 0 end
redis.call('HSET', KEYS[1], 'generation', '0', 'moved', '1')
return 1
