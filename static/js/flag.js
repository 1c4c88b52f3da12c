// Runs before the page is drawn, so that what needs scripts, and what replaces them, is never seen together.
document.documentElement.classList.add("js");
