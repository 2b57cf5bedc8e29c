// Search: the list keeps what holds all the words, and the pages mark it; index.html?q=WORDS searches at once. Without a
// script all else still works.
const search = document.getElementById("search"), count = document.getElementById("count");
const items = [...document.querySelectorAll("#items li")].map(element => {
  const link = element.querySelector("a").getAttribute("href");
  return {element, said: element.querySelector("q").textContent.normalize("NFC").toLowerCase(), place: link && document.getElementById(link.slice(1))};
});
function filter() {
  const words = search.value.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const {element, said, place} of items) {
    const fits = words.every(word => said.includes(word));
    element.hidden = !fits;
    if (place) place.classList.toggle("found", fits && words.length > 0);
    shown += fits;
  }
  count.textContent = words.length ? `${shown} of ${items.length} found` : `${items.length} items, the least certain first`;
}
search.addEventListener("input", filter);
document.querySelector("header form").addEventListener("submit", event => event.preventDefault());
search.value = new URLSearchParams(location.search).get("q") || "";
filter();
