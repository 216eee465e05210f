#!lua flags=allow-oom
-- Publishes what is not kept, where the unit may have been given to another server: there, nobody would hear it here.
-- KEYS: 3 the channel. ARGV: 1 the generation that the caller knows, 2 the message. Answers how many nodes received it.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED of another generation')
end
return redis.call('SPUBLISH', KEYS[3], ARGV[2])
