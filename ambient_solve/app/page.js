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
    const names = ["What was measured", "What was restored"];
    document.querySelectorAll("#slider img").forEach((image, i) => {
      if (image.alt !== names[i % 2]) image.alt = names[i % 2];
    });
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}
