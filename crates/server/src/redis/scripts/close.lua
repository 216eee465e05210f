#!lua flags=allow-oom
-- Ends a unit on this server, as its channels are given to another one: from here on nobody has the generation, and nobody is
-- given one, before the unit is brought back here.
-- KEYS: fence
redis.call('HSET', KEYS[1], 'generation', '0', 'moved', '1')
return 1
