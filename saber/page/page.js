/* What only the browser can do: show the answer on a phone, seek the player, copy. No address is asked for anything. */

/* On a phone the answer lies below the button: go to it. */
function saberShowAnswer(...inputs) {
  if (matchMedia('(max-width: 820px)').matches)
    document.getElementById('answer').scrollIntoView({ behavior: 'smooth' });
  return inputs;
}

/* The player shows the frame at the end of the part that is being moved. */
function saberSeek(ends, moved) {
  const player = document.querySelector('#clip video');
  if (player) player.currentTime = moved === 'start' ? ends[0] : Math.max(0, ends[1] - 0.05);
  return ends;
}

document.addEventListener('click', event => {
  if (!event.target.closest?.('[href="#api"]')) return;
  event.preventDefault();
  document.querySelector('.show-api')?.click(); // gradio's own page about it
});

document.addEventListener('click', async event => {
  const button = event.target.closest?.('[data-copy]');
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  const label = button.textContent;
  button.textContent = button.dataset.done;
  setTimeout(() => { button.textContent = label; }, 1600);
});

/* gradio gives a group of radio buttons a caption that no screen reader connects with it, and each button a name of
   its own, so that the arrow keys find no next one. */
function saberNameGroups() {
  const spoken = document.querySelector('.masthead')?.lang;
  if (spoken && document.documentElement.lang !== spoken) document.documentElement.lang = spoken;
  for (const group of document.querySelectorAll('fieldset')) {
    for (const button of group.querySelectorAll('input[type=radio]'))
      if (button.name !== group.id) button.name = group.id;
    const caption = group.querySelector('[data-testid=block-info]');
    if (caption && group.getAttribute('aria-label') !== caption.textContent.trim())
      group.setAttribute('aria-label', caption.textContent.trim());
  }
}
new MutationObserver(saberNameGroups).observe(document.documentElement, { subtree: true, childList: true });
