"""The whole site."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.thread, name="thread"),
    path("add", views.add, name="add"),
    path("<int:pk>/edit", views.edit, name="edit"),
    path("<int:pk>/delete", views.delete, name="delete"),
]
