-- The newest event of a cache channel and the milliseconds that it has left; nothing if there is none.

local names = names_of(KEYS[3])
local newest = redis.call('GET', names.newest)
return newest and { newest, redis.call('PTTL', names.newest) } or {}
