# SPDX-License-Identifier: Apache-2.0
"""Repositories, their branches and tags, and collections, as the stand-in of the Hub has them."""

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs

from hub_answers import Answers
from hub_state import DATE, LARGE, Refusal, entry, resolve


class Repositories(Answers):
    """All but what is in them."""

    def create_repo(self) -> None:
        asked = self.json()
        user, role = self.user(must=True)
        owner, kind = asked.get("organization") or user, f"{asked.get('type') or 'model'}s"
        if owner != user or role != "write":
            message = f'You don\'t have the rights to create a {kind[:-1]} under "{owner}"'
            raise Refusal(403, message)
        name = f"{owner}/{asked['name']}"
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.origin()}/{prefix}{name}"
        with self.hub.lock:
            if f"{kind}/{name}" in self.hub.repos:
                message = f"You already created this {kind[:-1]} repo"
                return self.answer(
                    {"error": message, "url": url}, 409, {"X-Error-Message": message}
                )
            private = asked.get("private") or asked.get("visibility") == "private"
            repo = {"id": name, "private": bool(private), "gated": False, "refs": {}, "commits": {}}
            attributes = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE)
            files = {".gitattributes": self.hub.regular(attributes.encode())}
            self.hub.commit(repo, "refs/heads/main", "initial commit", files)
            self.hub.repos[f"{kind}/{name}"] = repo
            self.hub.save()
        return self.answer({"url": url, "name": name, "id": name})

    def info(self, kind: str, name: str, revision: str = "") -> None:
        repo = self.repo(kind, name)
        oid = resolve(repo, revision or "main")
        siblings = [{"rfilename": path} for path in repo["commits"][oid]["files"]]
        facts = {"id": name, "sha": oid, "private": repo["private"], "gated": repo["gated"]}
        facts |= {"modelId": name, "lastModified": DATE, "createdAt": DATE, "disabled": False}
        self.answer(facts | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        repo = self.repo(kind, name)
        files = repo["commits"][resolve(repo, revision)]["files"]
        inside = {p: f for p, f in files.items() if not folder or p.startswith(f"{folder}/")}
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        rows, folders = [], set()
        for path, file in inside.items():
            parts = path.removeprefix(f"{folder}/" if folder else "").split("/")[:-1]
            above = [
                "/".join([*filter(None, [folder]), *parts[: i + 1]]) for i in range(len(parts))
            ]
            folders |= {*(above if self.query.get("recursive") == "true" else above[:1])}
            if self.query.get("recursive") == "true" or not parts:
                rows.append(entry(path, file))
        rows += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        self.answer(sorted(rows, key=lambda row: row["path"]))

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        asked = parse_qs(b"".join(self.body()).decode())
        files = repo["commits"][resolve(repo, revision)]["files"]
        self.answer([entry(path, files[path]) for path in asked["paths"] if path in files])

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        found: dict[str, Any] = {"heads": [], "tags": [], "pr": []}
        for ref, oid in repo["refs"].items():
            _, group, short = ref.split("/", 2)
            found[group].append({"name": short, "ref": ref, "targetCommit": oid})
        answer = {"branches": found["heads"], "tags": found["tags"], "converts": []}
        self.answer(answer | {"pullRequests": found["pr"]})

    def new_ref(self, kind: str, name: str, what: str, given: str) -> None:
        repo, asked = self.repo(kind, name, write=True), self.json()
        ref, target = f"refs/heads/{given}", asked.get("startingPoint") or "main"
        if what == "tag":
            ref, target = f"refs/tags/{asked['tag']}", given
        with self.hub.lock:
            if ref in repo["refs"]:
                raise Refusal(409, f"Reference already exists: {ref}")
            repo["refs"][ref] = resolve(repo, target)
            self.hub.save()
        self.answer({})

    def new_collection(self) -> None:
        asked, (user, role) = self.json(), self.user(must=True)
        if asked["namespace"] != user or role != "write":
            raise Refusal(403, "You don't have the rights to create a collection here")
        words = re.sub(r"\W+", "-", asked["title"].lower()).strip("-")
        slug = f"{user}/{words}-{hashlib.sha1(words.encode()).hexdigest()[:24]}"
        with self.hub.lock:
            if slug in self.hub.collections:
                message = "A collection of this title exists"
                return self.answer({"error": message, "slug": slug}, 409)
            facts = {"slug": slug, "title": asked["title"], "owner": {"name": user}, "items": []}
            facts |= {"private": bool(asked.get("private")), "lastUpdated": DATE, "position": 0}
            self.hub.collections[slug] = facts | {"theme": "blue", "upvotes": 0}
            self.hub.save()
        return self.answer(self.hub.collections[slug])

    def collection(self, slug: str) -> dict[str, Any]:
        found = self.hub.collections.get(slug)
        if found is None or (found["private"] and self.user()[0] != slug.split("/")[0]):
            raise Refusal(404, "Collection not found")
        return found

    def show_collection(self, slug: str) -> None:
        self.answer(self.collection(slug))

    def add_item(self, slug: str) -> None:
        found, item = self.collection(slug), self.json()["item"]
        if self.user(must=True) != (slug.split("/")[0], "write"):
            raise Refusal(403, "You don't have the rights to change this collection")
        self.repo(f"{item['type']}s", item["id"])
        with self.hub.lock:
            if any((i["id"], i["type"]) == (item["id"], item["type"]) for i in found["items"]):
                raise Refusal(409, "This item is in the collection already")
            place = {"position": len(found["items"]), "_id": str(len(found["items"]))}
            found["items"].append(item | place)
            self.hub.save()
        self.answer(found)
