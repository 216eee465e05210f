-- Forgets a channel's history and its newest event, and begins a new epoch. Answers epoch and present stamp.

local names = names_of(KEYS[3])
local meta = read(names, true)
meta.x = text(meta.e) .. ':' .. text(meta.o)
meta.e, meta.o, meta.l, meta.b = draw(), 0, math.max(meta.l, meta.s), 0
redis.call('DEL', names.history, names.newest)
unweigh(names)
write(names, meta)
redis.call('PEXPIRE', names.meta, META_TTL_MS, 'GT')
return { meta.e, meta.s, last }
