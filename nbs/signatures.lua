-- nbdev turns names in the comments of a signature into links, which code cannot show. This turns them back into names.
function CodeBlock(block)
  block.text = block.text:gsub('%[`([^`%]]+)`%]%(https?://[^%s)]*%)', '`%1`')
  return block
end
