() => {
  // A picture that is pasted anywhere on the page goes the way of one that was chosen.
  document.addEventListener("paste", (event) => {
    const picture = [...(event.clipboardData?.files || [])].find((file) => file.type.startsWith("image/"));
    const input = document.querySelector("#file input[type=file]");
    if (!picture || !input) return;
    const chosen = new DataTransfer();
    chosen.items.add(picture);
    input.files = chosen.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    event.preventDefault();
  });
  // gradio leaves the pictures of a slider without a name.
  const name = () => {
    const names = ["Before", "After"];
    document.querySelectorAll("#slider img").forEach((image, i) => {
      if (image.alt !== names[i % 2]) image.alt = names[i % 2];
    });
  };
  // Nor can its divider be reached by keys: they press the mouse where it is to go.
  const divider = () => document.querySelector("#slider .outer");
  const spot = () => {
    const place = divider().getBoundingClientRect(), frame = divider().parentElement.getBoundingClientRect();
    return { frame, share: (place.left + place.width / 2 - frame.left) / frame.width };
  };
  const reachable = () => {
    const found = divider();
    if (!found || found.tabIndex === 0) return;
    const said = { role: "slider", "aria-label": "Before and after", "aria-valuemin": 0, "aria-valuemax": 100 };
    for (const [key, value] of Object.entries({ ...said, "aria-valuenow": 50 })) found.setAttribute(key, value);
    found.tabIndex = 0;
  };
  document.addEventListener("keydown", (event) => {
    if (!event.target.closest?.("#slider .outer")) return;
    const { frame, share } = spot(), step = event.shiftKey ? 0.01 : 0.05;
    const way = { ArrowLeft: share - step, ArrowRight: share + step, Home: 0, End: 1 };
    way.ArrowDown = way.ArrowLeft;
    way.ArrowUp = way.ArrowRight;
    if (!(event.key in way)) return;
    event.preventDefault();
    const to = Math.min(Math.max(way[event.key], 0), 1), found = divider();
    const mouse = { view: window, bubbles: true, cancelable: true, button: 0, clientY: frame.top + 5 };
    mouse.clientX = frame.left + to * frame.width;
    found.dispatchEvent(new MouseEvent("mousedown", mouse));
    window.dispatchEvent(new MouseEvent("mouseup", mouse));
    found.setAttribute("aria-valuenow", Math.round(100 * to));
    found.focus();
  });
  const complete = () => {
    name();
    reachable();
  };
  new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
  complete();
}
