-- ARGV from 4: acts of six each: kind, channel or user, socket, user, info, number. Answers each with its own list:
--   J, j  a socket joins a channel that may have so many members; J wants the roster
--         -> {1: the user's first, 0: not, -1: full, version, roster}
--   l     a socket leaves -> {1: the user's last, 0: not, version, user}
--   c     so many subscribers -> {1: that is news, 0: not, all nodes' subscribers}
--   o, f  a socket's user goes online, offline -> {1: it was the first or last, 0: not}

local answers = {}
for i = 4, #ARGV, 6 do
  local kind, name, socket, user, info, number = unpack(ARGV, i, i + 5)
  local answer
  if kind == 'J' or kind == 'j' then
    local first = join(name, socket, user, info, number)
    if first then
      answer = {first, version_of(name), kind == 'J' and roster(name) or {}}
    else
      answer = {-1}
    end
  elseif kind == 'l' then
    local left = leave(name, socket, node)
    answer = left and {1, version_of(name), left} or {0}
  elseif kind == 'c' then
    answer = {count(name, number, node)}
  elseif kind == 'o' then
    answer = {online(name, socket)}
  else
    answer = {offline(name, socket, node)}
  end
  answers[#answers + 1] = answer
end
return answers
