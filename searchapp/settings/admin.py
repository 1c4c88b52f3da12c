"""How the staff's admin looks: our name, our greens, and a sidebar in the order of the work."""

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy


def _link(title: str, icon: str, address: str, permission: str = "") -> dict[str, Any]:
    link: dict[str, Any] = {"title": title, "icon": icon, "link": reverse_lazy(address)}
    if permission:
        link["permission"] = f"searchapp.admin.site.may_{permission}"
    return link


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Perennial",
    "SITE_HEADER": "Perennial",
    "SITE_SUBHEADER": "Catalogue",
    "SITE_URL": "/",
    "SITE_SYMBOL": "eco",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _: static("img/mark.svg")}],
    "SHOW_VIEW_ON_SITE": True,
    "SHOW_HISTORY": False,
    "BORDER_RADIUS": "8px",
    "DASHBOARD_CALLBACK": "searchapp.admin.site.dashboard",
    "COLORS": {
        "base": {
            "50": "#faf9f6",
            "100": "#f1f0ec",
            "200": "#e3e4de",
            "300": "#cdd1cb",
            "400": "#98a39d",
            "500": "#5f6b65",
            "600": "#4a5550",
            "700": "#38413d",
            "800": "#2b3236",
            "900": "#1b2023",
            "950": "#14171a",
        },
        "primary": {
            "50": "#f1f8f4",
            "100": "#e4f0e9",
            "200": "#c4e2d2",
            "300": "#98d8b8",
            "400": "#74c69d",
            "500": "#2c8a5e",
            "600": "#1f6f4a",
            "700": "#175539",
            "800": "#13442e",
            "900": "#0f3524",
            "950": "#081e14",
        },
    },
    "SIDEBAR": {
        "show_search": True,
        "navigation": [
            {
                "title": "Catalogue",
                "items": [
                    _link("Overview", "dashboard", "admin:index"),
                    _link("Items", "inventory_2", "admin:searchapp_item_changelist", "view_items"),
                    _link("Categories", "account_tree", "admin:searchapp_category_changelist", "view_items"),
                    _link("Import a catalogue", "upload_file", "admin:import_catalogue", "import"),
                    _link("Jobs", "pending_actions", "jobs"),
                    _link("Search", "image_search", "start") | {"active": "searchapp.admin.site.never"},
                ],
            },
            {
                "title": "Quality",
                "separator": True,
                "items": [
                    _link(
                        "Held-out photos",
                        "quiz",
                        "admin:searchapp_evaluationquery_changelist",
                        "view_quality",
                    ),
                    _link(
                        "Feedback", "thumbs_up_down", "admin:searchapp_feedback_changelist", "view_feedback"
                    ),
                    _link(
                        "Model versions", "layers", "admin:searchapp_modelversion_changelist", "view_versions"
                    ),
                ],
            },
            {
                "title": "Access",
                "separator": True,
                "items": [
                    _link("Audit log", "history", "admin:searchapp_auditevent_changelist", "view_audit"),
                    _link("API keys", "key", "admin:searchapp_apikey_changelist", "view_keys"),
                    _link("Users", "group", "admin:auth_user_changelist", "view_users"),
                ],
            },
        ],
    },
}
